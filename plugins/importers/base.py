"""What an importer is: it knows a format when it sees one, and reads it one field at a time."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .source import Source

Picture = NDArray[np.uint8]
LabelMap = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Content:
    """The pixels of a field.

    Attributes
    ----------
    image : ndarray (H, W, 3) uint8 RGB, or None
        None where the format has no pictures and none was found.
    masks : mapping kind -> ndarray (H, W) integer
        Instance labels, 0 is background, in any order and with gaps. Kinds are ``nucleus``, ``cell``, ...
    classes : mapping kind -> mapping label -> str
        The class of each instance that has one.
    lost : int
        Instances that the file lists and that hold no pixel: outlines too small to contain a pixel's centre,
        or wholly covered by later ones.
    """

    image: Picture | None
    masks: Mapping[str, LabelMap]
    classes: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    lost: int = 0


@dataclass(frozen=True)
class ForeignField:
    """A field of view that can be read, and is not read yet.

    Attributes
    ----------
    id : str
        The name of its file without the suffix, most often. Characters that cannot stand in a file's name are
        replaced, and ids that clash are told apart by their folders, after this.
    source : str
        The file that it comes from, for the manifest; `Source.relative` makes it.
    read : callable () -> Content
        Called once, perhaps in a thread of its own. Raises `MsdmError`.
    metadata : mapping column -> str
        What the format says of the field.
    """

    id: str
    source: str
    read: Callable[[], Content]
    metadata: Mapping[str, str] = field(default_factory=dict)


class Importer(ABC):
    """A format that data sets are imported from.

    Attributes
    ----------
    looks_for : str
        A few words: what lies in a folder of this format. Printed where no format was recognised.
    in_order : bool
        True: the fields must be read one after the other, in the order of `fields` (a compressed stream).
        False: several are read at once, each in a thread of its own.
    """

    looks_for: ClassVar[str]
    in_order: ClassVar[bool] = False

    @abstractmethod
    def detect(self, source: Source) -> bool:
        """Whether the files are of this format.

        Looks at names, at `Source.glance`, and at the first bytes of a file; never reads a whole one.
        """

    @abstractmethod
    def fields(self, source: Source) -> Iterator[ForeignField]:
        """The fields, in a fixed order; decodes no pixels yet.

        Raises
        ------
        MsdmError
            A file that lists the fields is damaged, or not safe to read.
        """
