"""Instances as they are moved, copied and dropped: a cell with the nuclei in it is one unit.

Kinds that nest (cell and nucleus) share a layer; a kind of any other name is a layer of its own, whose
instances may lie over those of other layers and are treated apart from them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...core.sample import Labels

Masks = Mapping[str, Labels]
"""By kind, (H, W) int32 each."""
NESTED = ("cell", "nucleus")
"""Kinds that share a layer, the outer one first."""
_WHOLE = np.ones((3, 3), bool)


@dataclass(frozen=True)
class Unit:
    """An instance of the outer kind, with what lies in it.

    Attributes
    ----------
    labels : mapping kind -> tuple of int
        Its labels in each mask, at least one in all.
    box : (slice, slice)
        Rows and columns that hold it.
    """

    labels: Mapping[str, tuple[int, ...]]
    box: tuple[slice, slice]


@dataclass(frozen=True)
class Stamp:
    """A unit cut out of its field.

    Attributes
    ----------
    masks : mapping kind -> ndarray (h, w) int32
        Its labels, 0 elsewhere.
    top, left : int
        Where it lay.
    """

    masks: Mapping[str, Labels]
    top: int
    left: int

    @property
    def footprint(self) -> NDArray[np.bool_]:
        """Pixels of any kind, (h, w)."""
        return np.asarray(np.logical_or.reduce([labels > 0 for labels in self.masks.values()]))


def layers(masks: Masks) -> list[tuple[str, ...]]:
    """Kinds that are treated together, the outer one first."""
    nested = tuple(kind for kind in NESTED if kind in masks)
    return ([nested] if nested else []) + [(kind,) for kind in sorted(masks) if kind not in NESTED]


def taken(masks: Masks, kinds: Sequence[str]) -> NDArray[np.bool_]:
    """Pixels of any instance of a layer, (H, W)."""
    return np.asarray(np.logical_or.reduce([masks[kind] > 0 for kind in kinds]))


def units(masks: Masks, kinds: Sequence[str]) -> list[Unit]:
    """The units of a layer, by the outer label; instances that lie in none come last.

    An inner instance belongs to the outer one that covers most of it, of several the one of the lowest label.
    Numbers do not matter: a nucleus 3 that lies in cell 7 is of cell 7.
    """
    from scipy.ndimage import find_objects

    boxes = {
        kind: {label: box for label, box in enumerate(find_objects(masks[kind]), 1) if box is not None}
        for kind in kinds
    }
    outer = kinds[0]
    inside: dict[int, dict[str, list[int]]] = {label: {} for label in boxes[outer]}
    alone: list[Unit] = []
    for kind in kinds[1:]:
        parents = _parents(masks[outer], masks[kind])
        for label, box in boxes[kind].items():
            if label in parents:
                inside[parents[label]].setdefault(kind, []).append(label)
            else:
                alone.append(Unit({kind: (label,)}, box))
    found = []
    for label, members in inside.items():
        parts = [boxes[outer][label], *(boxes[kind][k] for kind in members for k in members[kind])]
        found.append(
            Unit({outer: (label,), **{kind: tuple(ks) for kind, ks in members.items()}}, _around(parts))
        )
    return found + alone


def cut_out(masks: Masks, unit: Unit) -> Stamp:
    """The pixels of a unit."""
    pieces = {}
    for kind, labels in unit.labels.items():
        piece = masks[kind][unit.box]
        pieces[kind] = np.where(np.isin(piece, labels), piece, 0).astype(np.int32)
    return Stamp(pieces, unit.box[0].start, unit.box[1].start)


def erase(work: Mapping[str, Labels], stamp: Stamp) -> None:
    """Make the pixels of a unit background, in place."""
    for kind, piece in stamp.masks.items():
        height, width = piece.shape
        view = work[kind][stamp.top : stamp.top + height, stamp.left : stamp.left + width]
        view[piece > 0] = 0


def paste(work: Mapping[str, Labels], stamp: Stamp) -> None:
    """Write a unit, in place; what lies outside the field is cut off."""
    for kind, piece in stamp.masks.items():
        height, width = work[kind].shape
        top, left = max(stamp.top, 0), max(stamp.left, 0)
        inner = piece[
            top - stamp.top : max(height - stamp.top, 0), left - stamp.left : max(width - stamp.left, 0)
        ]
        view = work[kind][top : top + inner.shape[0], left : left + inner.shape[1]]
        np.copyto(view, inner, where=inner > 0)


def touches_border(unit: Unit, size: tuple[int, int]) -> bool:
    """Whether the border of the field may have cut the unit."""
    return any(s.start == 0 or s.stop == n for s, n in zip(unit.box, size, strict=True))


def renumbered(stamp: Stamp, used: set[int]) -> tuple[Stamp, dict[int, int]]:
    """The unit with the lowest labels that are not in `used`, which takes them in; and the old by the new.

    A label that several kinds share stays shared.
    """
    old = sorted({int(k) for piece in stamp.masks.values() for k in np.unique(piece) if k})
    new: dict[int, int] = {}
    label = 1
    for k in old:
        while label in used:
            label += 1
        new[k] = label
        used.add(label)
    pieces = {}
    for kind, piece in stamp.masks.items():
        fresh = np.zeros_like(piece)
        for k, label in new.items():
            fresh[piece == k] = label
        pieces[kind] = fresh
    return Stamp(pieces, stamp.top, stamp.left), {label: k for k, label in new.items()}


def used_labels(masks: Masks) -> set[int]:
    """Every label of every kind."""
    return {int(k) for labels in masks.values() for k in np.unique(labels) if k}


def in_one_piece(mask: NDArray[np.bool_]) -> bool:
    """Whether foreground pixels all touch each other, corners included."""
    from scipy.ndimage import label

    return int(label(mask, _WHOLE)[1]) <= 1


def largest_piece(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The largest connected part, corners included; of equals the first."""
    from scipy.ndimage import label

    pieces, count = label(mask, _WHOLE)
    if count <= 1:
        return mask
    return np.asarray(pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:]))


def mended(new: Stamp, old: Stamp) -> Stamp | None:
    """A unit whose form changed, with what held before: whole instances in one piece, inner ones inside.

    Returns
    -------
    Stamp or None
        None where an instance has no pixel left.
    """
    kinds = list(new.masks)
    pieces: dict[str, Labels] = {}
    for kind in kinds:
        piece = np.zeros_like(new.masks[kind])
        before = old.masks[kind]
        nests = kind != kinds[0] and bool((old.masks[kinds[0]][before > 0] > 0).all())
        for k in np.unique(before[before > 0]):
            mask = new.masks[kind] == k
            if nests:
                mask &= pieces[kinds[0]] > 0
            if in_one_piece(before == k):
                mask = largest_piece(mask)
            if not mask.any():
                return None
            piece[mask] = k
        pieces[kind] = piece
    return Stamp(pieces, new.top, new.left)


def _parents(outer: Labels, inner: Labels) -> dict[int, int]:
    """The outer label that covers most of each inner one."""
    both = (outer > 0) & (inner > 0)
    pairs, counts = np.unique(inner[both].astype(np.int64) << 32 | outer[both], return_counts=True)
    found: dict[int, int] = {}
    # ascending by count, and descending by label among equals: the last one stays
    for i in np.lexsort((-pairs, counts)):
        found[int(pairs[i] >> 32)] = int(pairs[i] & 0xFFFFFFFF)
    return found


def _around(boxes: Sequence[tuple[slice, slice]]) -> tuple[slice, slice]:
    rows, columns = ([box[axis] for box in boxes] for axis in (0, 1))
    return (
        slice(min(s.start for s in rows), max(s.stop for s in rows)),
        slice(min(s.start for s in columns), max(s.stop for s in columns)),
    )
