"""Features without weights: stain, texture, and the shape of what is stained."""

import hashlib
import json
from collections.abc import Sequence
from importlib import metadata
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ...core.conditioning import PluginConfig
from ...core.sample import Image
from ..properties import moment_properties
from .base import Embedder

Values = NDArray[np.float64]

VERSION = "2"
LEVELS = 32
DISTANCES = (1, 2, 4)
LBP = ((8, 1), (16, 2))
"""Neighbours and radius in pixels."""
STAINS = ("haematoxylin", "eosin", "dab")
MOMENTS = ("mean", "deviation", "skewness", "q05", "q95")
TEXTURE = ("contrast", "homogeneity", "energy", "correlation")
OBJECTS = (
    "per megapixel, log(1 + n)",
    "area fraction",
    "log area, mean",
    "log area, deviation",
    "eccentricity, mean",
    "eccentricity, deviation",
    "extent, mean",
)
NAMES = (
    *(f"{stain} {moment}" for stain in STAINS for moment in MOMENTS),
    *(f"LBP {p},{r} bin {i}" for p, r in LBP for i in range(p + 2)),
    *(f"GLCM {name} at {d}" for d in DISTANCES for name in TEXTURE),
    *(f"stained objects: {name}" for name in OBJECTS),
)
"""The features, in order."""


class Descriptors(Embedder):
    """Colour moments, local binary patterns, co-occurrence, and stained objects, by scikit-image.

    Sixty-two numbers per field (`NAMES`), each known to histology and none learnt:

    - 15: of haematoxylin, eosin and DAB after colour deconvolution (Ruifrok and Johnston, 2001), in
      optical density to the base of 10, not cut at 0: mean,
      standard deviation, skewness, and the 5 % and 95 % quantiles;
    - 28: histograms of rotation-invariant uniform local binary patterns of the grey image (Ojala et al., IEEE
      TPAMI 24:971, 2002), 8 neighbours at 1 pixel and 16 at 2;
    - 12: of the grey-level co-occurrence matrix at 1, 2 and 4 pixels, 32 levels, the mean over four
      directions:
      contrast, homogeneity, energy, correlation (Haralick et al., IEEE Trans. SMC 3:610, 1973);
    - 7: of the connected regions above Otsu's threshold of haematoxylin with `min_area` pixels or more:
      number,
      area, eccentricity, extent. They are nuclei and clumps of nuclei as the image shows them, not as its
      mask has them, and 0 where there are none.

    The units differ, so distances are taken after standardisation by the real set. They see no layout: where
    things lie, and whether tissue makes sense, is beyond them.
    """

    class Config(PluginConfig):
        min_area: int = Field(default=16, ge=1, description="Pixels of the smallest stained object.")

    standardise: ClassVar[bool] = True
    parallel: ClassVar[bool] = True

    @property
    def fingerprint(self) -> str:
        settings = self.config.model_dump(mode="json")
        text = json.dumps(
            ["descriptors", VERSION, metadata.version("scikit-image"), settings], sort_keys=True
        )
        return hashlib.sha256(text.encode()).hexdigest()

    def embed(self, tiles: Sequence[Image]) -> NDArray[np.float32]:
        return np.stack([describe(tile, self.config.min_area) for tile in tiles]).astype(np.float32)


def describe(image: Image, min_area: int = 16) -> Values:
    """The descriptors of one image.

    Parameters
    ----------
    image : ndarray (3, H, W) float32 in [-1, 1]
        At least 5 x 5.
    min_area : int
        Pixels of the smallest stained object.

    Returns
    -------
    ndarray (62,) float64
        See `NAMES`.
    """
    from skimage.color import hed_from_rgb, rgb2gray

    rgb = (np.moveaxis(image, 0, -1).astype(np.float64).clip(-1, 1) + 1) / 2
    # not rgb2hed, which cuts at 0: what lies at the cut does not vary, and is then magnified by standardising
    stains = -np.log10((rgb * 255 + 1) / 256) @ hed_from_rgb
    grey = np.rint(rgb2gray(rgb) * 255).astype(np.uint8)
    return np.concatenate([
        *(_moments(stains[..., channel]) for channel in range(3)),
        *(_patterns(grey, points, radius) for points, radius in LBP),
        _co_occurrence(grey),
        _objects(stains[..., 0], min_area),
    ])  # fmt: skip


def _moments(channel: Values) -> Values:
    mean, deviation = channel.mean(), channel.std()
    # rounding of a flat channel is not skewed
    skewness = ((channel - mean) ** 3).mean() / deviation**3 if deviation > 1e-9 else 0.0
    return np.array([mean, deviation, skewness, *np.quantile(channel, (0.05, 0.95))])


def _patterns(grey: NDArray[np.uint8], points: int, radius: int) -> Values:
    from skimage.feature import local_binary_pattern

    codes = local_binary_pattern(grey, points, radius, method="uniform").astype(np.int64)
    return np.asarray(np.bincount(codes.ravel(), minlength=points + 2) / codes.size)


def _co_occurrence(grey: NDArray[np.uint8]) -> Values:
    from skimage.feature import graycomatrix, graycoprops

    angles = [0, np.pi / 4, np.pi / 2, 3 * np.pi / 4]
    matrix = graycomatrix(
        grey // (256 // LEVELS), DISTANCES, angles, levels=LEVELS, symmetric=True, normed=True
    )
    columns = [graycoprops(matrix, name).mean(axis=1) for name in TEXTURE]
    return np.asarray(np.stack(columns, axis=1).ravel())


def _objects(haematoxylin: Values, min_area: int) -> Values:
    from scipy.ndimage import label
    from skimage.filters import threshold_otsu

    none = np.zeros(len(OBJECTS))
    if np.ptp(haematoxylin) < 1e-9:
        return none
    regions: NDArray[Any] = label(haematoxylin > threshold_otsu(haematoxylin))[0]
    found = moment_properties(regions)
    large = found["area"] >= min_area
    if not large.any():
        return none
    area, eccentricity, extent = (found[name][large] for name in ("area", "eccentricity", "extent"))
    logarithm = np.log(area)
    return np.array([
        np.log1p(len(area) / regions.size * 1e6),
        area.sum() / regions.size,
        logarithm.mean(),
        logarithm.std(),
        eccentricity.mean(),
        eccentricity.std(),
        extent.mean(),
    ])  # fmt: skip
