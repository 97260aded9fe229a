"""Memorisation: does a synthetic set hold copies of real fields?

Two looks at it. In feature space, the distance of each synthetic field to its nearest real one is compared
with that of real fields to each other: a generator that has learnt the distribution is about as far. In
pixels, each synthetic field is laid over the real fields that resemble it most, and their fine texture is
correlated.

A painted field has by design the outlines of the field that gave its mask. Its texture must not be that
field's: what is left of both images after a high pass, and after the mean profile across the outlines is
taken off, is noise of the tissue and of the camera, which no mask and no colour condition holds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from ...core.images import to_uint8
from ...core.sample import FACETS, Image, Labels, Sample
from ..embedders.fields import Fields, Progress
from ..metrics.base import Features
from ..metrics.neighbours import blocks
from ..parallel import shared_map

Values = NDArray[np.float64]
_Number = TypeVar("_Number", bound=np.generic)

COPY = 0.4
"""Correlation of texture from which on a field is a copy. On the built-in set: copies with noise of 5 levels
0.91 (median); fields that the demo model painted on masks of its training fields 0.25 at most; unrelated ones
0.09 at most."""
COPY_WITHOUT_MASK = 0.55
"""The same without a mask, where outlines are those of dark regions; the demo model has 0.40 at most."""
QUANTILE = 0.05
SMOOTH = 4.0
"""Standard deviation in pixels of the low pass that the texture is freed from."""
SPOT = 16.0
"""Pixels that vary together in a texture: a field has so many times fewer independent values than pixels."""
PROFILE = 8
"""Pixels on either side of an outline over which its mean profile is taken off."""
SHOWN = 8
CANDIDATES = 2
"""Real fields by either resemblance that a synthetic one is laid over."""
WINDOW = 384
"""Most of a side of the middle of a synthetic field that is compared, in pixels."""
_THUMB = 24


@dataclass(frozen=True)
class Neighbour:
    """A synthetic field and the real fields nearest to it.

    Attributes
    ----------
    id : str
        The synthetic field.
    nearest : str
        The real field whose features are nearest.
    distance : float
        Between their features.
    alike : str
        The real field whose texture is most alike, among the candidates.
    texture : float
        Their correlation, in [-1, 1]; 1 is the same pixels.
    turned : int
        Quarter turns of the real field that bring it over the synthetic one.
    flipped : bool
        Whether it is mirrored (left to right, before the turns).
    copy : bool
        Whether the correlation is that of a copy.
    """

    id: str
    nearest: str
    distance: float
    alike: str
    texture: float
    turned: int
    flipped: bool
    copy: bool


@dataclass(frozen=True)
class Memorisation:
    """What was found of copies.

    Attributes
    ----------
    neighbours : list of Neighbour
        Of each synthetic field, in their order.
    real_distances : ndarray (N,) float64
        Of each real field to its nearest other one, in feature space.
    nearer : float
        Share of synthetic fields that are nearer to a real one than 95 % of the real ones are to each other;
        about 0.05 is expected of new fields.
    ratio : float
        Median distance of synthetic fields to real ones over that among real ones.
    """

    neighbours: list[Neighbour]
    real_distances: Values
    nearer: float
    ratio: float

    @property
    def copies(self) -> list[Neighbour]:
        """The fields that are copies, the most alike first."""
        return sorted((n for n in self.neighbours if n.copy), key=lambda n: -n.texture)

    def closest(self, count: int = SHOWN) -> list[Neighbour]:
        """The fields most like a real one in texture."""
        return sorted(self.neighbours, key=lambda n: (-n.texture, n.distance))[:count]


def memorisation(
    reference: Fields,
    synthetic: Fields,
    reference_features: Features,
    synthetic_features: Features,
    *,
    workers: int | None = 1,
    on_progress: Progress | None = None,
) -> Memorisation:
    """Look for copies of real fields among synthetic ones.

    Parameters
    ----------
    reference : Fields
        What the generator may have seen: all real fields, at least two.
    synthetic : Fields
        Their masks, of nuclei where there are any, are read. The fields that the columns
        ``source_morphology``, ``source_appearance`` and ``source_metadata`` name are always compared.
    reference_features, synthetic_features : ndarray (N, D), (M, D)
    workers : int or None
        Processes.
    on_progress : callable (done, total) or None

    Returns
    -------
    Memorisation
        The texture is compared in 8 orientations at any shift that keeps the middle three quarters of the
        synthetic field within the real one. Copies at another scale, or turned otherwise, are not found.
    """
    near = [np.argsort(d, axis=1)[:, :CANDIDATES] for _, d in blocks(synthetic_features, reference_features)]
    best = np.concatenate(near)
    distances = np.concatenate([d.min(axis=1) for _, d in blocks(synthetic_features, reference_features)])
    others = []
    for start, d in blocks(reference_features, reference_features):
        d[np.arange(len(d)), start + np.arange(len(d))] = np.inf
        others.append(d.min(axis=1))
    real = np.concatenate(others)
    ids, real_thumbs = [], []
    for i in range(len(reference)):
        sample = reference[i]
        ids.append(sample.id)
        real_thumbs.append(_thumb(_required(sample)))
    orientations = np.stack([oriented(np.stack(real_thumbs, axis=-1), k, f) for k, f in _ORIENTATIONS])
    table = orientations.reshape(len(_ORIENTATIONS), -1, len(ids))
    compare = partial(_compare, reference, synthetic, {id: i for i, id in enumerate(ids)}, table, best)
    found = []
    for i, (id, texture, alike, (turned, flipped), known, chance) in enumerate(
        shared_map(compare, range(len(synthetic)), _Compared, workers)
    ):
        copy = texture >= max(COPY if known else COPY_WITHOUT_MASK, chance)
        nearest = ids[int(best[i, 0])]
        found.append(Neighbour(id, nearest, float(distances[i]), ids[alike], texture, turned, flipped, copy))
        if on_progress is not None:
            on_progress(i + 1, len(synthetic))
    median = float(np.median(real))
    return Memorisation(
        found,
        real,
        float(np.mean(distances < np.quantile(real, QUANTILE))),
        float(np.median(distances)) / median if median else float("nan"),
    )


_ORIENTATIONS = tuple((k, f) for f in (False, True) for k in range(4))


def oriented(array: NDArray[_Number], turns: int, flipped: bool) -> NDArray[_Number]:
    """An array (H, W, ...) mirrored left to right, then turned anticlockwise by quarters."""
    return np.rot90(array[:, ::-1] if flipped else array, turns)


def _required(sample: Sample) -> Image:
    if sample.image is None:
        raise ValueError(f"field {sample.id!r} has no image")
    return sample.image


def _thumb(image: Image) -> Values:
    """A grey thumbnail of zero mean and unit norm; zeros of a flat image."""
    grey = Pillow.fromarray(to_uint8(image)).convert("L")
    small = np.asarray(grey.resize((_THUMB, _THUMB), Pillow.Resampling.BILINEAR), np.float64)
    small -= small.mean()
    norm = float(np.linalg.norm(small))
    return small / norm if norm > 1e-6 else small * 0


_Compared = tuple[str, float, int, tuple[int, bool], bool, float]
"""The synthetic id, the correlation, the real field's number and orientation, whether there is a mask, and
what the correlation of unrelated textures may be."""


def _compare(
    reference: Fields,
    synthetic: Fields,
    index: dict[str, int],
    table: Values,
    best: NDArray[np.intp],
    i: int,
) -> _Compared:
    """The real field most alike in texture."""
    sample = synthetic[i]
    image = _required(sample)
    # (8, N): how alike the thumbnails are, for each orientation of the real field
    alike = np.einsum("opn,p->on", table, _thumb(image).ravel())
    declared = [index[id] for id in _sources(sample) if id in index]
    by_look = np.argsort(-alike.max(axis=0), kind="stable")[:CANDIDATES]
    candidates = dict.fromkeys([*declared, *map(int, by_look), *map(int, best[i])])
    mask = sample.masks.get("nucleus", next(iter(sample.masks.values()), None))
    window = _Window.of(image, mask)
    found = [(-2.0, 0, (0, False))]
    for j in candidates:
        orientation = _ORIENTATIONS[int(alike[:, j].argmax())]
        texture = np.ascontiguousarray(oriented(_texture(_required(reference[j])), *orientation))
        found.append((window.correlation(texture), j, orientation))
    correlation, j, orientation = max(found, key=lambda entry: entry[0])
    return sample.id, correlation, j, orientation, mask is not None, window.chance


def _sources(sample: Sample) -> Sequence[str]:
    return [sample.metadata.get(f"source_{facet}", "") for facet in FACETS]


def _texture(image: Image) -> Values:
    """Grey levels without what is smooth."""
    from scipy.ndimage import gaussian_filter

    grey = image.mean(axis=0, dtype=np.float64) * 127.5
    return np.asarray(grey - gaussian_filter(grey, SMOOTH, mode="reflect"))


@dataclass(frozen=True)
class _Window:
    """The texture in the middle of a field, and how far each of its pixels is from an outline."""

    texture: Values
    distance: NDArray[np.int64]

    @staticmethod
    def of(image: Image, mask: Labels | None) -> "_Window":
        from scipy.ndimage import distance_transform_edt

        texture = _middle(_texture(image))
        inside = _dark(image) if mask is None else mask > 0
        # of an empty side the distance is that to nothing, and any number does
        depth = np.where(inside, distance_transform_edt(inside), -distance_transform_edt(~inside))
        return _Window(texture, _middle(np.rint(depth.clip(-PROFILE, PROFILE)).astype(np.int64) + PROFILE))

    @property
    def chance(self) -> float:
        """Five standard errors of the correlation of unrelated textures: small fields correlate by chance."""
        return float(5 / np.sqrt(self.texture.size / SPOT))

    def correlation(self, real: Values) -> float:
        """With the real texture at the shift where they are most alike, once profiles are taken off both."""
        from skimage.feature import match_template

        height, width = (min(own, other) for own, other in zip(self.texture.shape, real.shape, strict=True))
        own = self.texture[:height, :width]
        if np.ptp(own) < 1e-6 or np.ptp(real) < 1e-6:
            return 0.0
        row, column = np.unravel_index(np.argmax(match_template(real, own)), _positions(real, own))
        other = real[row : row + height, column : column + width]
        profile = self.distance[:height, :width].ravel()
        return _correlation(_without(own.ravel(), profile), _without(other.ravel(), profile))


def _dark(image: Image) -> NDArray[np.bool_]:
    """What stands for a mask where there is none: regions darker than Otsu's threshold."""
    from scipy.ndimage import gaussian_filter
    from skimage.filters import threshold_otsu

    grey = gaussian_filter(image.mean(axis=0, dtype=np.float64), 1)
    return np.asarray(grey < threshold_otsu(grey)) if np.ptp(grey) > 1e-6 else np.zeros(grey.shape, bool)


def _positions(real: Values, own: Values) -> tuple[int, ...]:
    return tuple(a - b + 1 for a, b in zip(real.shape, own.shape, strict=True))


def _middle(array: NDArray[_Number]) -> NDArray[_Number]:
    sides = [max(1, min(WINDOW, length * 3 // 4)) for length in array.shape]
    first = [(length - side) // 2 for length, side in zip(array.shape, sides, strict=True)]
    return array[first[0] : first[0] + sides[0], first[1] : first[1] + sides[1]]


def _without(values: Values, classes: NDArray[np.int64]) -> Values:
    """Values less the mean of their class."""
    count = np.bincount(classes)
    return np.asarray(values - (np.bincount(classes, values) / np.maximum(count, 1))[classes])


def _correlation(a: Values, b: Values) -> float:
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float(np.clip((a * b).sum() / norm, -1, 1)) if norm > 1e-9 else 0.0
