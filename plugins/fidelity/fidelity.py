"""How near is a synthetic set to a real one? Every figure beside that of real against real."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from ...core.errors import MsdmError, did_you_mean
from ..embedders.base import Embedder
from ..embedders.cache import EmbeddingCache
from ..embedders.fields import Fields, embed_fields
from ..host import Host
from ..metrics.base import Features
from .adherence import AdherenceFigures, adherence
from .data import ById
from .groups import GroupDistances, GroupFloor, GroupMatrix, Matching, group_labels
from .memory import Memorisation, memorisation
from .metrics import MetricResult, feature_metrics, measure
from .warnings import pixel_size_of_sets, warnings_of

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class FeatureSet:
    """The fields of one set.

    Attributes
    ----------
    ids, labels : list of str
        Of each field: its id and its group.
    features : ndarray (N, D) float32
        As distances are taken of them: standardised where the embedder asks for it.
    """

    ids: list[str]
    labels: list[str]
    features: Features


@dataclass(frozen=True)
class Fidelity:
    """What was measured; figures are in the units of the embedder's features.

    Attributes
    ----------
    real, synthetic : FeatureSet
    group : tuple of str
        The columns that group the fields; none where all are one group.
    fingerprint : str
        The embedder's.
    matrix : GroupMatrix
    matching : Matching or None
        None where no group is in both sets.
    floors : list of GroupFloor
    metrics : list of MetricResult
        Of the whole sets.
    memorisation : Memorisation or None
        None where there are fewer than two real fields.
    adherence : AdherenceFigures or None
        None where the fields have no masks in common.
    warnings : list of str
        What is to be known before a figure is trusted.
    pixel_size : float or None
        Side of a pixel in micrometres that fields were brought to; None where they were taken as they are.
    """

    real: FeatureSet
    synthetic: FeatureSet
    group: tuple[str, ...]
    fingerprint: str
    matrix: GroupMatrix
    matching: Matching | None
    floors: list[GroupFloor]
    metrics: list[MetricResult]
    memorisation: Memorisation | None
    adherence: AdherenceFigures | None
    warnings: list[str]
    pixel_size: float | None


def fidelity(
    real: Fields,
    synthetic: Fields,
    embedder: Embedder,
    *,
    group: Sequence[str] = (),
    reference: Fields | None = None,
    distance: str = "wasserstein",
    cache: EmbeddingCache | None = None,
    batch: int = 16,
    workers: int | None = 1,
    repeats: int = 20,
    permutations: int = 999,
    seed: int = 0,
    allow_random: bool = False,
    host: Host | None = None,
    on_progress: Progress | None = None,
) -> Fidelity:
    """Compare a synthetic set with a real one.

    Parameters
    ----------
    real, synthetic : FieldDataset, or sequence of Sample
        Each with an image, at least one each; masks of a common kind (``nucleus``, if there) give adherence.
    embedder : Embedder
    group : sequence of str
        Columns of both manifests; the pairs of assay and indication of the paper are ``("assay",
        "indication")``.
    reference : FieldDataset, sequence of Sample, or None
        Real fields that the generator may have seen, in which copies are looked for: the training set. None
        takes `real`.
    distance : str
        The metric that fills the matrix of groups: a name of `feature_metrics`, lower being better.
    cache : EmbeddingCache or None
        Of this embedder.
    batch : int
        Tiles at once.
    workers : int or None
        Processes, for what runs on the CPU; None takes all cores where there are many fields.
    repeats : int
        Random halves of the real fields that the floor is measured on.
    permutations : int
        Relabellings of the test at most.
    seed : int
        Of halves, relabellings, directions and draws.
    allow_random : bool
        Let an embedder pass whose distances mean nothing.
    host : Host or None
        Where metrics come from; None is the host of this process.
    on_progress : callable (stage, done, total) or None

    Returns
    -------
    Fidelity
        Fields are in the order of their ids; the order in which they came changes nothing.

    Raises
    ------
    MsdmError
        A set is empty or lacks images, a manifest lacks a column of `group`, there is no such metric, or the
        embedder is no metric.
    """
    if not embedder.is_metric and not allow_random:
        raise MsdmError(
            f"the embedder {type(embedder).__name__} is a random network: its distances mean nothing, and it "
            f"is for tests only; take descriptors or timm, or give --allow-random"
        )
    metrics = feature_metrics(host)
    legal = [name for name, metric in metrics.items() if metric.better == "lower"]
    if distance not in legal:
        raise MsdmError(f"no distance {distance!r}; {did_you_mean(distance, legal)}")
    for fields, what in ((real, "the real set"), (synthetic, "the synthetic set")):
        if not len(fields):
            raise MsdmError(f"{what} has no fields; give at least one")
    stage = partial(_stage, on_progress)
    seen = ById(real if reference is None else reference)
    real, synthetic = ById(real), ById(synthetic)
    labels = group_labels(real.rows, group, "the real set")
    synthetic_labels = group_labels(synthetic.rows, group, "the synthetic set")
    target, warnings = pixel_size_of_sets(embedder, real.rows, synthetic.rows)
    with cache or EmbeddingCache(None, embedder.fingerprint) as kept:
        embed = partial(embed_fields, embedder, target=target, cache=kept, batch=batch, workers=workers)
        a = embed(real, on_progress=stage("embedding real fields"))
        b = embed(synthetic, on_progress=stage("embedding synthetic fields"))
        whole = a if reference is None else embed(seen, on_progress=stage("embedding the reference"))
        if kept.problem is not None:
            warnings.append(kept.problem)
    if a.shape[1] != b.shape[1]:
        raise MsdmError(
            f"the embedder gave {a.shape[1]} and {b.shape[1]} features; it must give one number of them"
        )
    mean, scale = _scale(a) if embedder.standardise else (np.float32(0), np.float32(1))
    a, b, whole = ((x - mean) / scale for x in (a, b, whole))
    groups = GroupDistances(a, b, labels, synthetic_labels, metrics[distance], seed)
    matrix = groups.matrix(stage("distances of groups"))
    kind = _common_kind(real, synthetic)
    found = Fidelity(
        real=FeatureSet([row["id"] for row in real.rows], labels, a),
        synthetic=FeatureSet([row["id"] for row in synthetic.rows], synthetic_labels, b),
        group=tuple(group),
        fingerprint=embedder.fingerprint,
        matrix=matrix,
        matching=groups.matching(matrix, permutations, stage("permutation test")),
        floors=groups.floors(repeats, stage("real against real")),
        metrics=measure(
            a, b, list(metrics.values()), repeats=repeats, seed=seed, on_progress=stage("metrics")
        ),
        memorisation=None if len(seen) < 2 else memorisation(
            seen, synthetic, whole, b, workers=workers, on_progress=stage("looking for copies")
        ),
        adherence=None if kind is None else adherence(
            real, synthetic, labels, kind, colours_of=seen, workers=workers, seed=seed,
            on_progress=stage("adherence"),
        ),
        warnings=warnings,
        pixel_size=target,
    )  # fmt: skip
    if not embedder.is_metric:
        warnings.insert(0, "The embedder is a random network: no distance here means anything.")
    warnings += warnings_of(found)
    return found


def _stage(on_progress: Progress | None, name: str) -> Callable[[int, int], None] | None:
    return None if on_progress is None else partial(on_progress, name)


def _scale(features: Features) -> tuple[Features, Features]:
    """Mean and deviation of each feature over real fields; a feature that does not vary keeps its unit."""
    mean, deviation = features.mean(axis=0, dtype=np.float64), features.std(axis=0, dtype=np.float64)
    flat = deviation <= 1e-6 * np.maximum(np.abs(mean), 1)
    return mean.astype(np.float32), np.where(flat, 1, deviation).astype(np.float32)


def _common_kind(real: ById, synthetic: ById) -> str | None:
    kinds = real.kinds & synthetic.kinds
    return "nucleus" if "nucleus" in kinds else min(kinds, default=None)
