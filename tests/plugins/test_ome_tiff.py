"""Pyramids: what each level holds, and that the file says so to others."""

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import tifffile

from msdm_kit.plugins.field_masks import read_field_masks
from msdm_kit.plugins.ome_tiff import pyramid, write_ome_tiff

RNG = np.random.default_rng(0)


def test_levels_halve_down_to_512_pixels(tmp_path):
    base = RNG.integers(0, 256, (1030, 701, 3), dtype=np.uint8)
    levels = pyramid(base, tmp_path, mean=True)
    assert [level.shape for level in levels] == [(1030, 701, 3), (515, 350, 3), (257, 175, 3)]
    for finer, coarser in zip(levels, levels[1:], strict=False):
        height, width = coarser.shape[:2]
        four = finer[: 2 * height, : 2 * width].reshape(height, 2, width, 2, 3).astype(float)
        assert np.array_equal(coarser, np.floor(four.mean(axis=(1, 3)) + 0.5))


@pytest.mark.parametrize(
    ("size", "count"), [((512, 512), 1), ((513, 4), 2), ((1, 2000), 1), ((2, 2000), 2), ((2049, 2049), 3)]
)
def test_how_many_levels(tmp_path, size, count):
    assert len(pyramid(np.zeros(size, np.uint8), tmp_path, mean=False)) == count


def test_labels_are_never_mixed(tmp_path):
    labels = RNG.integers(0, 2**17, (600, 40), dtype=np.uint32)
    _, half = pyramid(labels, tmp_path, mean=False)
    assert np.array_equal(half, labels[::2, ::2])


@pytest.mark.parametrize("shape", [(1030, 701, 3), (1030, 701)])
def test_every_level_is_read_back_with_tiles_and_pixel_size(tmp_path, shape):
    base = RNG.integers(0, 256, shape, dtype=np.uint8 if len(shape) == 3 else np.uint16)
    levels = pyramid(base, tmp_path, mean=len(shape) == 3)
    path = tmp_path / "large.ome.tif"
    write_ome_tiff(path, levels, name="large", pixel_size=0.25)
    with tifffile.TiffFile(path) as tif:
        assert tif.is_ome
        (series,) = tif.series
        assert len(series.levels) == 3
        for k, (stored, level) in enumerate(zip(series.levels, levels, strict=True)):
            (page,) = stored.pages
            assert np.array_equal(stored.asarray(), level)
            assert page.tile == (256, 256)
            assert page.compression == tifffile.COMPRESSION.ADOBE_DEFLATE
            across, per = page.tags["XResolution"].value
            assert across / per == pytest.approx(40000 * level.shape[1] / base.shape[1], rel=1e-6), k
        assert [page.is_reduced for page in tif.pages] == [False]
        assert len(tif.pages[0].pages) == 2  # SubIFDs
        (pixels,) = ElementTree.fromstring(tif.ome_metadata).iter(
            "{http://www.openmicroscopy.org/Schemas/OME/2016-06}Pixels"
        )
        assert [float(pixels.get(f"PhysicalSize{axis}")) for axis in "XY"] == [0.25, 0.25]


def test_a_pyramid_of_labels_is_a_mask_of_its_finest_level(tmp_path):
    labels = RNG.integers(0, 5, (700, 530), dtype=np.uint16)
    path = tmp_path / "nuclei.ome.tif"
    write_ome_tiff(path, pyramid(labels, tmp_path, mean=False), name="nuclei", pixel_size=0.5)
    found = read_field_masks([("nucleus", path)], tmp_path)
    assert np.array_equal(found.masks["nucleus"], labels)
    assert found.pixel_size == 0.5
