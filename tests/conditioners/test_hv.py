"""The HV numerics: known rows, properties, and equality with a plain loop over instances."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from msdm_kit.conditioners.hv import hv_maps

MODES = ("hover", "hover_legacy", "boundary", "edt")
UNDER_FLIP = ("hover", "boundary", "edt")  # legacy's zero lies one pixel to the left, whatever the side

fields = arrays(
    np.int32,
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
    elements=st.sampled_from([0, 0, 1, 2, 5, 900_000]),
)


def blobs(seed: int, size: int = 64, count: int = 14) -> np.ndarray:
    """Ellipses, some overlapping, some cut by the border, some small, with gaps in the ids."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((size, size), dtype=np.int32)
    y, x = np.mgrid[:size, :size]
    for i in range(count):
        (cy, cx), (a, b) = rng.uniform(0, size, 2), rng.uniform(1, 11, 2)
        labels[((y - cy) / a) ** 2 + ((x - cx) / b) ** 2 < 1] = 3 * i + 2
    return labels


def two_sided(offset: np.ndarray) -> np.ndarray:
    offset = offset.copy()
    if (offset < 0).any():
        offset[offset < 0] /= -offset.min()
    if (offset > 0).any():
        offset[offset > 0] /= offset.max()
    return offset


def slow(labels: np.ndarray, mode: str) -> np.ndarray:
    """The definitions, one instance and one axis at a time."""
    maps = np.zeros((2, *labels.shape))
    for i in np.unique(labels[labels > 0]):
        inside = labels == i
        pieces = [inside]
        if mode == "hover_legacy":
            parts, n = ndimage.label(inside)
            pieces = [parts == k + 1 for k in range(n)]
        for piece in pieces:
            if mode == "hover_legacy" and piece.sum() < 30:
                continue
            depth = ndimage.distance_transform_edt(np.pad(piece, 1))[1:-1, 1:-1]
            for axis, coordinates in ((0, np.nonzero(piece)[1]), (1, np.nonzero(piece)[0])):
                centre = coordinates.mean()
                if mode == "hover":
                    value = two_sided(coordinates - centre)
                elif mode == "hover_legacy":
                    value = two_sided((coordinates + 1 - int(centre + 0.5)).astype(np.float32))
                elif mode == "edt":
                    value = np.sign(coordinates - centre) * (1 - depth[piece] / depth.max())
                else:
                    value = run_positions(piece if axis == 0 else piece.T)
                    value = (value if axis == 0 else value.T)[piece]
                maps[axis][piece] = value
    return maps.astype(np.float32)


def run_positions(piece: np.ndarray) -> np.ndarray:
    out = np.zeros(piece.shape)
    for y, row in enumerate(piece):
        runs, n = ndimage.label(row)
        for k in range(1, n + 1):
            at = np.flatnonzero(runs == k)
            if len(at) > 1:
                out[y, at] = np.linspace(-1, 1, len(at))
    return out


def row(mode: str, pixels: int, height: int = 1) -> np.ndarray:
    labels = np.zeros((height + 4, pixels + 4), dtype=np.int32)
    labels[2 : 2 + height, 2:-2] = 7
    return hv_maps(labels, mode)[:, 2 : 2 + height, 2:-2]


class TestKnownAnswers:
    def test_row_of_seven_hover(self) -> None:
        h, v = row("hover", 7)
        np.testing.assert_allclose(h[0], [-1, -2 / 3, -1 / 3, 0, 1 / 3, 2 / 3, 1], rtol=1e-6)
        assert not v.any()

    def test_row_of_seven_legacy(self) -> None:
        # five rows high, so that its 35 pixels are kept
        h, v = row("hover_legacy", 7, height=5)
        np.testing.assert_array_equal(h, np.tile(np.float32([-1, -0.5, 0, 0.25, 0.5, 0.75, 1]), (5, 1)))
        np.testing.assert_allclose(v[:, 0], [-1, 0, 1 / 3, 2 / 3, 1], rtol=1e-6)

    def test_legacy_rounds_the_centre_half_up(self) -> None:
        # columns 0..5: mean 2.5, centre 3; counted from 1 the offsets are -2 .. 3
        h, _ = row("hover_legacy", 6, height=5)
        np.testing.assert_allclose(h[0], [-1, -0.5, 0, 1 / 3, 2 / 3, 1], rtol=1e-6)

    @pytest.mark.parametrize(("pixels", "kept"), [(29, False), (30, True)])
    def test_legacy_drops_under_thirty_pixels(self, pixels: int, kept: bool) -> None:
        labels = np.zeros((3, 40), dtype=np.int32)
        labels[1, 2 : 2 + pixels] = 1
        assert hv_maps(labels, "hover_legacy").any() == kept

    def test_legacy_treats_pieces_apart(self) -> None:
        labels = np.zeros((20, 10), dtype=np.int32)
        labels[1:7, 1:7] = 4
        labels[10:16, 1:7] = 4
        labels[18, 1] = 4
        _, v = hv_maps(labels, "hover_legacy")
        np.testing.assert_array_equal(v[1:7], v[10:16])
        assert v[1, 1] == -1
        assert v[6, 1] == 1
        assert not v[18].any()

    def test_row_boundary(self) -> None:
        h, v = row("boundary", 5)
        np.testing.assert_array_equal(h[0], [-1, -0.5, 0, 0.5, 1])
        assert not v.any()

    def test_square_edt(self) -> None:
        # depth of a 5 x 5 square: 1 at the rim, 2, and 3 in the middle
        h, v = row("edt", 5, height=5)
        rim, inner = 1 - 1 / 3, 1 - 2 / 3
        np.testing.assert_allclose(h[2], [-rim, -inner, 0, inner, rim], rtol=1e-6)
        np.testing.assert_allclose(h[0], [-rim, -rim, 0, rim, rim], rtol=1e-6)
        np.testing.assert_array_equal(v, h.T)

    def test_l_shape_hover(self) -> None:
        # pixels (0,0) (1,0) (2,0) (2,1) (2,2): centroid column 3/5, row 7/5
        labels = np.array([[1, 0, 0], [1, 0, 0], [1, 1, 1]], dtype=np.int32)
        h, v = hv_maps(labels, "hover")
        np.testing.assert_allclose(h, [[-1, 0, 0], [-1, 0, 0], [-1, 2 / 7, 1]], rtol=1e-6)
        np.testing.assert_allclose(v, [[-1, 0, 0], [-2 / 7, 0, 0], [1, 1, 1]], rtol=1e-6)

    def test_l_shape_boundary_takes_the_pixels_own_run(self) -> None:
        labels = np.array([[1, 0, 0], [1, 0, 0], [1, 1, 1]], dtype=np.int32)
        h, v = hv_maps(labels, "boundary")
        np.testing.assert_array_equal(h, [[0, 0, 0], [0, 0, 0], [-1, 0, 1]])
        np.testing.assert_array_equal(v, [[-1, 0, 0], [0, 0, 0], [1, 0, 0]])

    def test_two_runs_of_a_row_in_boundary(self) -> None:
        h, _ = hv_maps(np.array([[3, 3, 3, 0, 3, 3, 4, 4]]), "boundary")
        np.testing.assert_array_equal(h[0], [-1, 0, 1, 0, -1, 1, -1, 1])

    def test_pieces_of_a_label_share_the_centroid_in_hover(self) -> None:
        h, _ = hv_maps(np.array([[3, 3, 0, 0, 0, 3, 3]]), "hover")
        np.testing.assert_allclose(h[0], [-1, -2 / 3, 0, 0, 0, 2 / 3, 1], rtol=1e-6)

    @pytest.mark.parametrize("mode", MODES)
    def test_single_pixel_is_zero(self, mode: str) -> None:
        labels = np.zeros((3, 3), dtype=np.int32)
        labels[1, 1] = 1
        assert not hv_maps(labels, mode).any()

    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("shape", [(4, 6), (1, 1), (0, 5)])
    def test_empty_mask(self, mode: str, shape: tuple[int, int]) -> None:
        maps = hv_maps(np.zeros(shape, dtype=np.int32), mode)
        assert maps.shape == (2, *shape)
        assert maps.dtype == np.float32
        assert not maps.any()

    @pytest.mark.parametrize("mode", UNDER_FLIP)
    def test_a_cut_instance_is_measured_as_it_is_cut(self, mode: str) -> None:
        whole = np.zeros((9, 12), dtype=np.int32)
        whole[2:7, 2:9] = 1
        cut = whole[:, 5:]
        moved = np.zeros_like(whole)
        moved[:, 4 : 4 + cut.shape[1]] = cut
        np.testing.assert_array_equal(hv_maps(cut, mode), hv_maps(moved, mode)[:, :, 4 : 4 + cut.shape[1]])

    @pytest.mark.parametrize("mode", MODES)
    def test_full_image_instance(self, mode: str) -> None:
        h, v = hv_maps(np.ones((7, 7), dtype=np.uint8), mode)
        np.testing.assert_array_equal(v, h.T)
        assert h[3, 0] < 0 < h[3, 6]


class TestAgainstTheLoop:
    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("seed", range(5))
    def test_blobs(self, mode: str, seed: int) -> None:
        labels = blobs(seed)
        np.testing.assert_allclose(hv_maps(labels, mode), slow(labels, mode), atol=1e-6)

    @pytest.mark.parametrize("side", [361, 363])
    def test_distances_whose_squares_leave_16_bits(self, side: int) -> None:
        labels = np.ones((side, side + 9), dtype=np.int32)
        labels[side // 3, 40:50] = 2
        np.testing.assert_allclose(hv_maps(labels, "edt"), slow(labels, "edt"), atol=1e-6)

    @pytest.mark.parametrize("seed", range(5))
    def test_legacy_to_the_bit(self, seed: int) -> None:
        labels = blobs(seed)
        np.testing.assert_array_equal(hv_maps(labels, "hover_legacy"), slow(labels, "hover_legacy"))

    @settings(max_examples=60, deadline=None)
    @given(fields, st.sampled_from(MODES))
    def test_any_labels(self, labels: np.ndarray, mode: str) -> None:
        np.testing.assert_allclose(hv_maps(labels, mode), slow(labels, mode), atol=1e-6)


class TestProperties:
    @settings(max_examples=60, deadline=None)
    @given(fields, st.sampled_from(UNDER_FLIP))
    def test_flips_change_the_sign(self, labels: np.ndarray, mode: str) -> None:
        h, v = hv_maps(labels, mode)
        h_flipped, v_flipped = hv_maps(labels[:, ::-1], mode)
        np.testing.assert_array_equal(h_flipped, -h[:, ::-1])
        np.testing.assert_array_equal(v_flipped, v[:, ::-1])

    @settings(max_examples=60, deadline=None)
    @given(fields, st.sampled_from(MODES))
    def test_transposing_swaps(self, labels: np.ndarray, mode: str) -> None:
        h, v = hv_maps(labels, mode)
        np.testing.assert_array_equal(hv_maps(labels.T, mode), np.stack([v.T, h.T]))

    @settings(max_examples=60, deadline=None)
    @given(fields, st.sampled_from(MODES))
    def test_range_and_background(self, labels: np.ndarray, mode: str) -> None:
        maps = hv_maps(labels, mode)
        assert np.abs(maps).max(initial=0) <= 1
        assert not maps[:, labels == 0].any()

    @settings(max_examples=60, deadline=None)
    @given(fields, st.sampled_from(MODES), st.permutations([1, 2, 5, 900_000]))
    def test_relabelling_changes_nothing(self, labels: np.ndarray, mode: str, ids: list[int]) -> None:
        renamed = np.zeros_like(labels)
        for old, new in zip([1, 2, 5, 900_000], ids, strict=True):
            renamed[labels == old] = new
        np.testing.assert_array_equal(hv_maps(renamed, mode), hv_maps(labels, mode))

    @pytest.mark.parametrize("mode", MODES)
    def test_any_integer_type_and_layout_and_the_input_is_kept(self, mode: str) -> None:
        labels = blobs(0)
        kept = labels.copy()
        expected = hv_maps(labels, mode)
        np.testing.assert_array_equal(labels, kept)
        np.testing.assert_array_equal(hv_maps(labels.astype(np.uint16), mode), expected)
        np.testing.assert_array_equal(hv_maps(np.asfortranarray(labels), mode), expected)
        np.testing.assert_array_equal(hv_maps(labels.astype(np.int64), mode), expected)
