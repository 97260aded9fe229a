"""Do synthetic fields follow their masks and their colours, and how do real ones score?"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from ...core.sample import Sample
from ...core.seeds import rng_for
from ..embedders.fields import Fields
from ..metrics.adherence import colour_adherence, mask_adherence
from ..parallel import shared_map

Progress = Callable[[int, int], None]
Colour = tuple[float, float, float]


@dataclass(frozen=True)
class FieldAdherence:
    """Of one field.

    Attributes
    ----------
    id : str
    mask : float
        Dice of haematoxylin and mask, see `mask_adherence`; NaN of an empty mask.
    turned : float
        The same with the mask turned by 180 degrees: what a field scores that does not follow its mask.
    mean : tuple of 3 float, or None
        Mean colour of the foreground in [-1, 1].
    colour : float or None
        Of a synthetic field, levels of 255 between that mean and the wanted one; None where that is not
        known.
    """

    id: str
    mask: float
    turned: float
    mean: Colour | None
    colour: float | None = None


@dataclass(frozen=True)
class AdherenceFigures:
    """Of two sets; each pair is mean and deviation over fields, NaN where there are none.

    Attributes
    ----------
    kind : str
        The mask that was read.
    real, synthetic : tuple of float
        Mask adherence.
    turned : tuple of float
        Of synthetic fields with masks turned by 180 degrees.
    colour : tuple of float
        Colour error of synthetic fields, levels of 255: to the field that the column ``source_appearance``
        names, or what the column ``colour_error_levels`` says where colours were given.
    colour_other : tuple of float
        The same between pairs of real fields of one group: the error of a painter that ignores the colour it
        is given and takes that of any field of the group.
    colours : int
        Synthetic fields whose wanted colour is known.
    fields : list of FieldAdherence
        The synthetic ones.
    """

    kind: str
    real: tuple[float, float]
    synthetic: tuple[float, float]
    turned: tuple[float, float]
    colour: tuple[float, float]
    colour_other: tuple[float, float]
    colours: int
    fields: list[FieldAdherence]


def adherence(
    real: Fields,
    synthetic: Fields,
    labels: Sequence[str],
    kind: str,
    *,
    colours_of: Fields | None = None,
    workers: int | None = 1,
    seed: int = 0,
    on_progress: Progress | None = None,
) -> AdherenceFigures:
    """Mask and colour adherence of synthetic fields beside that of real ones.

    Parameters
    ----------
    real, synthetic : Fields
        With masks of `kind`.
    labels : sequence of str
        The group of each real field.
    kind : str
    colours_of : Fields or None
        Real fields that may have given colours; None takes `real`.
    workers : int or None
        Processes.
    seed : int
        Of the pairs of real fields.
    on_progress : callable (done, total) or None
    """
    total, done = len(real) + len(synthetic), 0
    found: list[list[FieldAdherence]] = []
    for fields in (real, synthetic):
        rows = []
        for row in shared_map(partial(_measure, fields, kind), range(len(fields)), FieldAdherence, workers):
            rows.append(row)
            done += 1
            if on_progress is not None:
                on_progress(done, total)
        found.append(rows)
    measured, painted = found
    colours = {row.id: row.mean for row in measured}
    if colours_of is not None and colours_of is not real:
        wanted = {synthetic[i].metadata.get("source_appearance", "") for i in range(len(synthetic))}
        samples = (colours_of[i] for i in range(len(colours_of)))
        colours |= {s.id: _mean(s, kind) for s in samples if s.id in wanted and kind in s.masks}
    painted = [
        FieldAdherence(row.id, row.mask, row.turned, row.mean, _error(row.mean, synthetic[i], colours))
        for i, row in enumerate(painted)
    ]
    return AdherenceFigures(
        kind,
        _spread([row.mask for row in measured]),
        _spread([row.mask for row in painted]),
        _spread([row.turned for row in painted]),
        _spread([row.colour for row in painted]),
        _spread(_pairs(measured, labels, seed)),
        sum(row.colour is not None for row in painted),
        painted,
    )


def _measure(fields: Fields, kind: str, i: int) -> FieldAdherence:
    sample = fields[i]
    labels, image = sample.labels(kind), sample.image
    assert image is not None
    turned = np.ascontiguousarray(labels[::-1, ::-1])
    return FieldAdherence(
        sample.id, mask_adherence(image, labels), mask_adherence(image, turned), _mean(sample, kind)
    )


def _mean(sample: Sample, kind: str) -> Colour | None:
    inside = sample.labels(kind) > 0
    if sample.image is None or not inside.any():
        return None
    r, g, b = (float(v) for v in sample.image[:, inside].mean(axis=1, dtype=np.float64))
    return r, g, b


def _error(mean: Colour | None, sample: Sample, colours: dict[str, Colour | None]) -> float | None:
    wanted = colours.get(sample.metadata.get("source_appearance", ""))
    if mean is not None and wanted is not None:
        return _levels(mean, wanted)
    try:
        written = float(sample.metadata.get("colour_error_levels", ""))
    except ValueError:
        return None
    return written if math.isfinite(written) else None


def _levels(a: Colour, b: Colour) -> float:
    """As `colour_adherence` has it of pixels."""
    pixel = np.array(a, np.float32).reshape(3, 1, 1)
    return colour_adherence(pixel, np.ones((1, 1), np.int32), b)


def _pairs(real: Sequence[FieldAdherence], labels: Sequence[str], seed: int) -> list[float]:
    """Colour errors of each real field to another one of its group."""
    rng = rng_for(seed, "fidelity colour pairs")
    found = []
    for name in sorted(set(labels)):
        means = [row.mean for row, label in zip(real, labels, strict=True) if label == name and row.mean]
        if len(means) > 1:
            order = rng.permutation(len(means))
            found += [_levels(means[i], means[j]) for i, j in zip(order, np.roll(order, 1), strict=True)]
    return found


def _spread(values: Sequence[float | None]) -> tuple[float, float]:
    known = np.array([v for v in values if v is not None and not math.isnan(v)], np.float64)
    if not len(known):
        return math.nan, math.nan
    return float(known.mean()), float(known.std(ddof=1)) if len(known) > 1 else math.nan
