"""The fields that a segmenter is trained on, and those that it predicts on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...core.dataset import FieldDataset
from ...core.errors import MsdmError
from ...core.fields import MANIFEST, Progress
from ...core.manifest import read_manifest
from .base import Fields
from .fields import Joined

TRAIN, VALIDATION = "train", "val"


@dataclass(frozen=True)
class TrainingFields:
    """What `open_training` opened; `notes` say what was decided for the user."""

    train: Fields
    validation: Fields
    notes: tuple[str, ...]


def open_training(
    folder: Path,
    kind: str,
    *,
    split: str | None = None,
    validation: str | None = None,
    more: Sequence[Path] = (),
    on_progress: Progress | None = None,
) -> TrainingFields:
    """Open the fields that a segmenter is trained on.

    Parameters
    ----------
    folder : Path
        A data folder.
    kind : str
        Of the masks; a field needs its image and this mask.
    split : str or None
        None takes ``train``, or every field where the manifest has no split column.
    validation : str or None
        None takes ``val`` where there is such a split.
    more : sequence of Path
        Data folders of which every field is trained on as well, such as painted pairs.
    on_progress : callable (done, total) or None
        Fields of each folder that are checked.

    Raises
    ------
    MsdmError
        A folder or a field is wrong, there is no such split, or both splits are one.
    """
    rows = read_manifest(folder / MANIFEST) if (folder / MANIFEST).is_file() else [{}]
    splits = {row["split"] for row in rows} if "split" in rows[0] else set()
    if split is None and TRAIN in splits:
        split = TRAIN
    if validation is None and VALIDATION in splits and split not in (None, "all", VALIDATION):
        validation = VALIDATION
    if validation is not None and validation == split:
        raise MsdmError(f"split {split!r} is for training and for validation; give two, or leave one out")

    def opened(root: Path, name: str | None) -> FieldDataset:
        return FieldDataset(root, masks=(kind,), split=name, on_progress=on_progress)

    parts: list[Fields] = [opened(folder, split), *(opened(root, None) for root in more)]
    held: Fields = [] if validation is None else opened(folder, validation)
    train = Joined(parts)
    notes = f"training on {_named(parts[0], split, folder)}"
    for part, root in zip(parts[1:], more, strict=True):
        notes += f" and {_named(part, None, root)}"
    notes += f", validating on {_named(held, validation, folder)}" if validation else ", validating on none"
    return TrainingFields(train, held, (notes,))


def open_images(
    folder: Path, *, split: str | None = None, on_progress: Progress | None = None
) -> FieldDataset:
    """The images of a data folder, which needs no masks.

    Raises
    ------
    MsdmError
        A folder or an image is wrong, or there is no such split.
    """
    return FieldDataset(folder, masks=(), split=split, on_progress=on_progress)


def _named(fields: Fields, split: str | None, folder: Path) -> str:
    of = "" if split in (None, "all") else f" of split {split}"
    return f"{len(fields)} fields{of} in {folder.name}"
