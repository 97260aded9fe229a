"""A field of view, its three facets, and their recombination."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from .errors import MsdmError

Image = NDArray[np.float32]
Labels = NDArray[np.int32]

FACETS = ("morphology", "appearance", "metadata")


@dataclass(frozen=True)
class ColourStatistics:
    """Mean and standard deviation of one kind's foreground.

    Attributes
    ----------
    mean : tuple of float
        R, G, B on the scale of the image, [-1, 1].
    std : tuple of float
        R, G, B, on the same scale, [0, 1].
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True)
class Appearance:
    """What a field looks like: the pixels that colours are measured on, or colours given by hand.

    Attributes
    ----------
    image : ndarray (3, H, W) float32 in [-1, 1], or None
        Where the colours are measured.
    masks : mapping kind -> ndarray (H, W) int32
        The instances of `image`, not of the field that is painted.
    statistics : mapping kind -> ColourStatistics
        Colours given by hand; they win over the measured ones.
    """

    image: Image | None = None
    masks: Mapping[str, Labels] = field(default_factory=dict)
    statistics: Mapping[str, ColourStatistics] = field(default_factory=dict)

    def colours(self, kind: str) -> ColourStatistics | None:
        """Mean and standard deviation of `kind`'s foreground.

        Parameters
        ----------
        kind : str
            A mask kind, such as ``nucleus``.

        Returns
        -------
        ColourStatistics or None
            None where the foreground is empty, so that there is nothing to measure.

        Raises
        ------
        MsdmError
            No colours are given for `kind` and there is no image with such a mask to measure them on.
        """
        if kind in self.statistics:
            return self.statistics[kind]
        if self.image is None or kind not in self.masks:
            raise MsdmError(
                f"no colour for kind {kind!r}: the appearance has neither an image with a {kind!r} mask nor "
                f"statistics for it; give one of them"
            )
        inside = self.masks[kind] > 0
        if not inside.any():
            return None
        pixels = self.image[:, inside].astype(np.float64)
        mean, std = pixels.mean(axis=1), pixels.std(axis=1)
        return ColourStatistics(
            mean=(float(mean[0]), float(mean[1]), float(mean[2])),
            std=(float(std[0]), float(std[1]), float(std[2])),
        )


@dataclass(frozen=True)
class Sample:
    """One field of view.

    Attributes
    ----------
    id : str
        Unique within a data set; the noise of a synthetic field is drawn from it.
    masks : mapping kind -> ndarray (H, W) int32
        Instance labels, 0 is background. Kinds are ``nucleus``, ``cell``, ...
    image : ndarray (3, H, W) float32 in [-1, 1], or None
        None for a field that is yet to be painted. One that is painted from a real image, or keeps pixels of
        one, has that.
    metadata : mapping column -> str
        The manifest's columns.
    look : Appearance or None
        Where the colours come from, if not from this field's own image and masks.
    sources : mapping facet -> str
        The id of the field that each facet came from.
    classes : mapping kind -> mapping label -> str
        Classes of instances, of those that have one; they go with the masks.
    keep : ndarray (H, W) bool, or None
        Pixels of `image` that painting leaves as they are, where it is asked to keep any; None leaves it to
        the settings which.
    unpadded : (int, int) or None
        Height and width of what is not padding, which lies on the right and at the bottom; None: nothing is.
    """

    id: str
    masks: Mapping[str, Labels]
    image: Image | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    look: Appearance | None = None
    sources: Mapping[str, str] = field(default_factory=dict)
    classes: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    keep: NDArray[np.bool_] | None = None
    unpadded: tuple[int, int] | None = None

    @property
    def appearance(self) -> Appearance:
        """Where the colours come from: `look`, or this field's own image and masks."""
        return self.look if self.look is not None else Appearance(self.image, self.masks)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels.

        Raises
        ------
        MsdmError
            There is neither a mask nor an image.
        """
        labels = next(iter(self.masks.values()), None)
        if labels is not None:
            return int(labels.shape[0]), int(labels.shape[1])
        if self.image is not None:
            return int(self.image.shape[1]), int(self.image.shape[2])
        raise MsdmError(f"sample {self.id!r} has neither a mask nor an image; give one of them")

    def labels(self, kind: str) -> Labels:
        """The instance labels of `kind`.

        Raises
        ------
        MsdmError
            The sample has no such kind.
        """
        if kind not in self.masks:
            raise MsdmError(
                f"sample {self.id!r} has no {kind!r} mask; it has: {', '.join(sorted(self.masks)) or 'none'}"
            )
        return self.masks[kind]

    def source(self, facet: str) -> str:
        """The id of the field that `facet` came from."""
        return self.sources.get(facet, self.id)


def recombine(
    morphology: Sample,
    appearance: Sample | Appearance | None = None,
    metadata: Sample | Mapping[str, str] | None = None,
    *,
    id: str | None = None,
) -> Sample:
    """A field to be painted, its facets taken from different samples (MSDM, section 4.3).

    Parameters
    ----------
    morphology : Sample
        Gives the masks.
    appearance : Sample, Appearance or None
        Gives the colours; None keeps those of `morphology`.
    metadata : Sample, mapping or None
        Gives the metadata; None keeps that of `morphology`.
    id : str or None
        The new field's id; None keeps that of `morphology`.

    Returns
    -------
    Sample
        Without an image, with the ids of the source fields in ``sources``.
    """
    sources = {facet: morphology.source(facet) for facet in FACETS}
    look = morphology.appearance
    if isinstance(appearance, Sample):
        look, sources["appearance"] = appearance.appearance, appearance.source("appearance")
    elif appearance is not None:
        look, sources["appearance"] = appearance, "given"
    words: Mapping[str, str] = morphology.metadata
    if isinstance(metadata, Sample):
        words, sources["metadata"] = metadata.metadata, metadata.source("metadata")
    elif metadata is not None:
        words, sources["metadata"] = {**morphology.metadata, **metadata}, "given"
    return replace(morphology, id=id or morphology.id, image=None, look=look, metadata=words, sources=sources)


def instance_edges(labels: Labels) -> NDArray[np.bool_]:
    """Where any of a pixel's 4 neighbours has another id.

    Parameters
    ----------
    labels : ndarray (H, W) of int
        Instance ids, 0 is background.

    Returns
    -------
    ndarray (H, W) of bool
        Two pixels wide between instances: either side of an edge is edge. The image's border is none.

    Examples
    --------
    >>> instance_edges(np.array([[0, 0, 7, 7, 7]])).astype(int)
    array([[0, 1, 1, 0, 0]])
    """
    edges = np.zeros(labels.shape, dtype=bool)
    across, down = labels[:, 1:] != labels[:, :-1], labels[1:] != labels[:-1]
    edges[:, 1:] |= across
    edges[:, :-1] |= across
    edges[1:] |= down
    edges[:-1] |= down
    return edges
