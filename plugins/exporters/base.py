"""What an exporter is: it writes fields in another tool's format, one at a time."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.errors import MsdmError
from ...core.images import RawImage

Labels = NDArray[np.uint16]


@dataclass(frozen=True)
class Plan:
    """What is exported, known before the first field is read.

    Attributes
    ----------
    kinds : tuple of str
        Mask kinds.
    classes : mapping kind -> tuple of str
        Names of classes that occur in the fields, sorted.
    fields : int
        Their number.
    size : (int, int)
        Height and width of the first.
    """

    kinds: tuple[str, ...]
    classes: Mapping[str, tuple[str, ...]]
    fields: int
    size: tuple[int, int]


@dataclass(frozen=True)
class ExportedField:
    """A field that is to be written.

    Attributes
    ----------
    index : int
        From 0, in the order of the export.
    name : str
        Of `Exporter.names`.
    image : ndarray (H, W, 3) uint8 RGB
    image_path : Path
        The file that the image was read from, PNG or TIFF.
    masks : mapping kind -> ndarray (H, W) uint16
        0 is background, and instances are 1..n. A kind of which the field has no mask is left out.
    classes : mapping kind -> mapping label -> str
        The class of each instance that has one, by the labels of `masks`.
    row : mapping column -> str
        The field's row of the manifest.
    """

    index: int
    name: str
    image: RawImage
    image_path: Path
    masks: Mapping[str, Labels]
    classes: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    row: Mapping[str, str] = field(default_factory=dict)


class Exporter(ABC):
    """A format that data sets are exported to. It is sent to processes, so it must be picklable."""

    def kinds(self, there: Sequence[str]) -> tuple[str, ...]:
        """The mask kinds that are exported where the user names none.

        Parameters
        ----------
        there : sequence of str
            The kinds that the data have, at least one.

        Raises
        ------
        MsdmError
            The user has to choose. Here: there are several, as most formats hold one label map per field.
        """
        if len(there) > 1:
            raise MsdmError(
                f"the data have masks of the kinds {' and '.join(there)}, and this format holds one of them; "
                f"choose with --mask-kind {there[0]}"
            )
        return tuple(there)

    def names(self, ids: Sequence[str]) -> list[str]:
        """The name that each field has in the format; the ids, unless the format has rules of its own."""
        return list(ids)

    @abstractmethod
    def write(self, folder: Path, plan: Plan, exported: ExportedField) -> Any:
        """Write the files of one field below `folder`; in several processes, in any order.

        Returns
        -------
        object
            What `gather` needs of the field, small and picklable.

        Raises
        ------
        MsdmError
            The format cannot express the field.
        """

    def gather(self, folder: Path, plan: Plan, written: Iterator[Any]) -> list[str]:
        """Write the files that are of all fields; in one process, which draws the fields' writing.

        Parameters
        ----------
        folder : Path
        plan : Plan
        written : iterator
            What `write` returned of each field, in order. The first is asked for before any is written, so
            that what comes before the loop comes before all fields.

        Returns
        -------
        list of str
            What the user should know, one line each.
        """
        for _ in written:
            pass
        return []
