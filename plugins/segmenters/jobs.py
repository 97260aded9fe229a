"""The segmentation jobs: train a segmenter into a folder, write what segmenters find as a data set."""

import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from ...core.errors import MsdmError
from ...core.fields import IMAGES, MANIFEST, mask_folder, without_hashes
from ...core.files import file_hash, write_text
from ...core.images import save_image, save_labels
from ...core.manifest import write_manifest
from ..choice import choose
from ..device import pick_device
from ..host import Host
from ..new_folder import check_new, new_folder
from .base import Fields, Progress, Segmenter
from .folder import FACTS, WEIGHTS, Trained

SEGMENTER = "segmenter"
"""Column of a manifest of predictions: the SHA-256 of each segmenter's weights, by kind, as JSON."""


@dataclass(frozen=True)
class Predicted:
    """What was written: the folder, its fields, and the instances of each kind."""

    folder: Path
    fields: int
    instances: Mapping[str, int]


def train_segmenter(
    entry: Mapping[str, Any],
    kind: str,
    train: Fields,
    validation: Fields,
    folder: str | Path,
    *,
    seed: int = 0,
    device: str | None = None,
    on_progress: Progress | None = None,
    host: Host | None = None,
) -> Segmenter:
    """Train a segmenter and write its folder.

    Parameters
    ----------
    entry : mapping
        ``type`` and settings, as `choice.read_choice` makes them of ``scratch-small:epochs=50``.
    kind : str
        Of mask, such as ``cell``.
    train, validation : Fields
        With masks of that kind, such as a `FieldDataset` of it or a list of samples; `validation` may be
        empty. Training holds all of them in memory, about 30 bytes per pixel.
    folder : path
        New or empty. It appears when training is done; after an exception or Ctrl-C there is none.
    seed : int
        The same seed gives the same weights on a CPU, at one number of threads.
    device : str or None
        None takes a GPU where there is one.
    on_progress : callable (done, total) or None
        Epochs, first with 0.
    host : Host or None

    Returns
    -------
    Segmenter
        Trained, as `load_segmenter` would load it.

    Raises
    ------
    MsdmError
        The folder is not empty, the settings are illegal, no field has an instance of the kind, or the
        segmenter cannot be trained here.
    """
    out = Path(folder)
    check_new(out)
    segmenter, settings = new_segmenter(entry, kind, device=device, host=host)
    count, digest = _describe(train, kind)
    losses = segmenter.fit(train, validation, seed=seed, on_progress=on_progress)
    with new_folder(out) as temporary:
        segmenter.save(temporary / WEIGHTS)
        facts = Trained(
            segmenter=settings,
            kind=kind,
            seed=seed,
            train_fields=len(train),
            train_instances=count,
            train_sha256=digest,
            validation_fields=len(validation),
            train_loss=list(losses.train),
            validation_loss=dict(losses.validation),
            weights_sha256=file_hash(temporary / WEIGHTS),
            versions={of: importlib.metadata.version(of) for of in ("cellpose", "torch")},
        )
        write_text(temporary / FACTS, json.dumps(facts.model_dump(mode="json"), indent=2) + "\n")
    return segmenter


def new_segmenter(
    entry: Mapping[str, Any], kind: str, *, device: str | None = None, host: Host | None = None
) -> tuple[Segmenter, dict[str, Any]]:
    """A segmenter that can be trained here, and all its settings.

    Parameters
    ----------
    entry, kind, device, host
        As `train_segmenter` takes them.

    Raises
    ------
    MsdmError
        The settings or the kind are illegal, or the segmenter cannot be trained, or not here.
    """
    mask_folder(kind)
    name, cls, config = choose("segmenter", entry, f"segmenter {entry.get('type')!r}", host)
    if not cls.trainable:
        raise MsdmError(f"segmenter {name!r} comes with its weights and is not trained; predict with it")
    segmenter: Segmenter = cls(config, kind, pick_device(device))
    segmenter.check()
    return segmenter, {"type": name, **config.model_dump(mode="json")}


def predict(
    segmenters: Sequence[Segmenter],
    fields: Fields,
    out: str | Path,
    *,
    hashes: Sequence[str] = (),
    images: bool = True,
    on_progress: Progress | None = None,
) -> Predicted:
    """Write what segmenters find in the images of fields as a data set, in the documented layout.

    A mask may be empty there: what was not found is no mistake. `evaluate segmentation` reads such masks;
    training on them does not.

    Parameters
    ----------
    segmenters : sequence of Segmenter
        Each of another kind.
    fields : Fields
        With images; their own masks are not looked at. One is in memory at a time.
    out : path
        New or empty. It appears when all is in it.
    hashes : sequence of str
        Of the weights of each segmenter, for the manifest's column ``segmenter``; none leaves it out.
    images : bool
        False: masks and manifest alone.
    on_progress : callable (done, total) or None
        Fields, first with 0.

    Raises
    ------
    MsdmError
        The folder is not empty, two segmenters are of one kind, a field has no image, or a file cannot be
        written; nothing is left then.
    """
    folder = Path(out)
    check_new(folder)
    kinds = [segmenter.kind for segmenter in segmenters]
    for kind in kinds:
        if kinds.count(kind) > 1:
            raise MsdmError(
                f"{kinds.count(kind)} segmenters find masks of kind {kind!r}; give one for each kind"
            )
    made = {SEGMENTER: json.dumps(dict(zip(kinds, hashes, strict=True)))} if hashes else {}
    counts = dict.fromkeys(kinds, 0)
    if on_progress is not None:
        on_progress(0, len(fields))
    with new_folder(folder) as temporary:
        rows = []
        for i in range(len(fields)):
            sample = fields[i]
            if sample.image is None:
                raise MsdmError(f"field {sample.id!r} has no image; instances are found in images")
            for segmenter in segmenters:
                labels = segmenter.segment(sample.image)
                counts[segmenter.kind] += int(labels.max(initial=0))
                save_labels(temporary / mask_folder(segmenter.kind) / f"{sample.id}.png", labels)
            if images:
                save_image(temporary / IMAGES / f"{sample.id}.png", sample.image)
            rows.append({**without_hashes(sample.metadata), "id": sample.id, **made})
            if on_progress is not None:
                on_progress(i + 1, len(fields))
        write_manifest(temporary / MANIFEST, rows)
    return Predicted(folder, len(fields), counts)


def _describe(fields: Fields, kind: str) -> tuple[int, str]:
    """Instances of a kind in fields, and the SHA-256 of what is trained on."""
    digest, count = sha256(), 0
    for i in range(len(fields)):
        sample = fields[i]
        labels = np.ascontiguousarray(sample.labels(kind))
        count += len(np.unique(labels[labels > 0]))
        digest.update(json.dumps([sample.id, *labels.shape]).encode())
        digest.update(labels.tobytes())
        digest.update(b"" if sample.image is None else sample.image.tobytes())
    return count, digest.hexdigest()
