"""A folder of fields as samples."""

import copy
import difflib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .errors import MsdmError
from .fields import (
    Progress,
    RawField,
    has_one_label_in_pieces,
    open_manifest,
    read_field,
    scan,
    summary,
)
from .images import to_float
from .sample import Sample

_Classes = Mapping[str, Mapping[int, str]]


class FieldDataset:
    """Fields of view in the layout of `msdm_kit.core.fields`, checked in full when opened.

    Every file is decoded once at the start: a damaged file is then an error in the first seconds and not in
    the fifth hour. What is decoded is kept as it is on disc (7 bytes per pixel with two uint16 masks) up to a
    budget; the fields beyond it are read again when they are asked for.

    Parameters
    ----------
    root : path
        The folder that holds ``metadata.csv``.
    masks : sequence of str
        Mask kinds that every field must have.
    split : str or None
        A value of the manifest's ``split`` column; None or ``all`` takes every row.
    limit : int or None
        Take the first rows only.
    ids : sequence of str or None
        Take the rows with these ids, in this order; None takes every row.
    images : bool
        False: a field may lack its image, as one whose masks are yet to be painted.
    budget : int
        Bytes of decoded pixels that are kept.
    on_progress : callable (done, total) or None
        Called after each field that is checked, in this thread.

    Attributes
    ----------
    root : Path
    kinds : tuple of str
    rows : list of dict of str -> str
        The manifest's rows, in its order.
    ids : list of str
    sizes : list of (int, int)
        Height and width of each field.
    one_label : list of frozenset of str
        The kinds of each field whose mask has one label alone, in several places: a picture of 0 and 255
        passes the checks, and all its pixels belong to one instance.

    Raises
    ------
    MsdmError
        Anything is wrong: one line with the first problem and the number of the others; `check_fields` lists
        them all.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        masks: Sequence[str] = ("cell", "nucleus"),
        split: str | None = None,
        limit: int | None = None,
        ids: Sequence[str] | None = None,
        images: bool = True,
        budget: int = 2 * 2**30,
        on_progress: Progress | None = None,
    ) -> None:
        self.root = Path(root)
        self.kinds = tuple(dict.fromkeys(masks))
        self._images = images
        self.rows = open_manifest(self.root, self.kinds, split, limit, images)
        if ids is not None:
            self._index = {row["id"]: i for i, row in enumerate(self.rows)}
            self.rows = [self.rows[self._find(id)] for id in ids]
        self.ids = [row["id"] for row in self.rows]
        self.sizes: list[tuple[int, int]] = []
        self.one_label: list[frozenset[str]] = []
        self._pictured: list[bool] = []
        self._index = {id: i for i, id in enumerate(self.ids)}
        self._kept: dict[int, RawField] = {}
        self._classes: Callable[[str], _Classes] | None = None
        problems: list[str] = []
        for i, (raw, found) in enumerate(scan(self.root, self.ids, self.kinds, on_progress, images)):
            problems += found
            if raw is None:
                continue
            self.sizes.append(raw.size)
            self._pictured.append(raw.image is not None)
            self.one_label.append(frozenset(k for k, v in raw.masks.items() if has_one_label_in_pieces(v)))
            if raw.nbytes <= budget:
                budget -= raw.nbytes
                self._kept[i] = raw
        if problems:
            raise MsdmError(summary(problems))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> Sample:
        """The field in row `i`.

        Returns
        -------
        Sample
            Image (3, H, W) float32 in [-1, 1] or None, masks (H, W) int32 per kind, every column of the
            manifest as metadata, and the classes of instances of `with_classes`. The arrays are the caller's
            own.

        Raises
        ------
        IndexError
            There is no row `i`.
        MsdmError
            The field is not kept, and its files have changed for the worse since they were checked.
        """
        i = range(len(self))[i]
        raw = self._kept.get(i)
        if raw is None:
            # where images need not be, one that was there must still be: the job counts on it
            raw, problems = read_field(self.root, self.ids[i], self.kinds, self._images or self._pictured[i])
            if raw is None:
                raise MsdmError(summary(problems))
            if raw.size != self.sizes[i]:
                (h, w), (height, width) = raw.size, self.sizes[i]
                raise MsdmError(
                    f"the files of field {self.ids[i]!r} are {h} x {w}, and were {height} x {width} when "
                    f"they were checked; leave data alone while they are in use, and start again"
                )
        return Sample(
            id=self.ids[i],
            image=None if raw.image is None else to_float(raw.image),
            masks={kind: labels.astype(np.int32) for kind, labels in raw.masks.items()},
            metadata=dict(self.rows[i]),
            classes={} if self._classes is None else self._classes(self.ids[i]),
        )

    def by_id(self, id: str) -> Sample:
        """The field with the id `id`.

        Raises
        ------
        MsdmError
            There is none among the rows that were taken.
        """
        return self[self._find(id)]

    def subset(self, ids: Sequence[str]) -> "FieldDataset":
        """The fields with these ids, in this order, sharing this data set's decoded pixels.

        Raises
        ------
        KeyError
            An id is not among the rows that were taken.
        """
        chosen = [self._index[id] for id in ids]
        part = copy.copy(self)
        part.rows = [self.rows[i] for i in chosen]
        part.ids = list(ids)
        part.sizes = [self.sizes[i] for i in chosen]
        part.one_label = [self.one_label[i] for i in chosen]
        part._pictured = [self._pictured[i] for i in chosen]
        part._index = {id: k for k, id in enumerate(ids)}
        part._kept = {k: self._kept[i] for k, i in enumerate(chosen) if i in self._kept}
        return part

    def with_classes(self, classes: Callable[[str], _Classes]) -> "FieldDataset":
        """These fields with classes of their instances, sharing this data set's decoded pixels.

        Parameters
        ----------
        classes : callable (id) -> mapping kind -> mapping label -> str
            Called whenever a field is asked for.
        """
        whole = copy.copy(self)
        whole._classes = classes
        return whole

    def _find(self, id: str) -> int:
        if id not in self._index:
            close = difflib.get_close_matches(id, self._index, n=1)
            hint = f"did you mean {close[0]!r}" if close else f"ids are such as {next(iter(self._index))!r}"
            raise MsdmError(f"no field {id!r} among the {len(self._index)} taken from {self.root}; {hint}")
        return self._index[id]

    def __getstate__(self) -> dict[str, Any]:
        # To a process that shares no memory with this one, pixels would be copied, once per worker: it reads
        # the files instead.
        return {**self.__dict__, "_kept": {}}
