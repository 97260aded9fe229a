"""Outlines and run-length codes as pixels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msdm_kit.core.errors import MsdmError
from msdm_kit.plugins.importers.canvas import Canvas, rings
from msdm_kit.plugins.importers.raster import contour, polygon
from msdm_kit.plugins.importers.runs import from_counts, from_pairs, paint


def drawn(parts, height, width):
    """The whole picture's mask of one polygon."""
    mask = np.zeros((height, width), bool)
    window, inside = polygon([np.array(ring, float) for ring in parts], height, width)
    mask[window] = inside
    return mask


def by_hand(parts, height, width):
    """Even-odd, pixel by pixel, edge by edge; and which centres lie on an edge, where it is a convention."""
    mask, on_edge = np.zeros((height, width), bool), np.zeros((height, width), bool)
    edges = [edge for ring in parts for edge in zip(ring, ring[1:] + ring[:1], strict=True)]
    for r in range(height):
        for c in range(width):
            for (x0, y0), (x1, y1) in edges:
                if (y0 > r + 0.5) != (y1 > r + 0.5):
                    x = x0 + (r + 0.5 - y0) * (x1 - x0) / (y1 - y0)
                    mask[r, c] ^= x < c + 0.5
                    on_edge[r, c] |= abs(x - c - 0.5) < 1e-9
    return mask, on_edge


SQUARE = [(1, 1), (4, 1), (4, 3), (1, 3)]


def test_a_rectangle_along_corners_is_its_pixels():
    wanted = np.zeros((5, 6), bool)
    wanted[1:3, 1:4] = True
    assert np.array_equal(drawn([SQUARE], 5, 6), wanted)
    assert np.array_equal(drawn([[*SQUARE, SQUARE[0]]], 5, 6), wanted)
    assert np.array_equal(drawn([SQUARE[::-1]], 5, 6), wanted)


def test_holes_are_out_and_what_leaves_the_picture_is_cut_off():
    wanted = np.ones((6, 6), bool)
    wanted[2:4, 2:4] = False
    assert np.array_equal(
        drawn([[(-9, -9), (99, -9), (99, 99), (-9, 99)], [(2, 2), (4, 2), (4, 4), (2, 4)]], 6, 6), wanted
    )
    assert not drawn([[(7, 7), (9, 7), (9, 9)]], 6, 6).any()
    assert not drawn([[(-1e300, -1e300), (-1e299, 0), (-5, -5)]], 6, 6).any()


def test_nothing_has_no_pixels():
    for ring in ([], [(1, 1)], [(1, 1), (4, 4)], [(1.1, 1.1), (1.4, 1.1), (1.4, 1.4)]):
        points = np.array(ring, float).reshape(-1, 2)
        assert not polygon([points], 5, 5)[1].any()
    assert polygon([], 5, 5)[1].size == 0


# No corner lies at the height of a centre.
corner = st.integers(-30, 90).map(lambda n: n / 10 + 0.013)
ring = st.lists(st.tuples(corner, corner), min_size=3, max_size=8)


@given(parts=st.lists(ring, min_size=1, max_size=3))
@settings(max_examples=60, deadline=None)
def test_polygons_are_those_of_the_definition(parts):
    wanted, on_edge = by_hand(parts, 6, 7)
    assert np.array_equal(drawn(parts, 6, 7)[~on_edge], wanted[~on_edge])


@given(x=st.floats(0, 6), y=st.floats(0, 5))
@settings(max_examples=60, deadline=None)
def test_polygons_that_share_edges_share_no_pixel_and_leave_none_out(x, y):
    corners = [(0, 0), (6, 0), (6, 5), (0, 5)]
    parts = [drawn([[corners[k], corners[(k + 1) % 4], (x, y)]], 5, 6) for k in range(4)]
    assert np.array_equal(np.sum(parts, axis=0), np.ones((5, 6), int))


def test_shared_sloping_edges_round_alike():
    a, b = (0.1, 0.3), (63.7, 59.9)
    left = drawn([[a, b, (0.1, 59.9)]], 64, 64)
    right = drawn([[b, a, (63.7, 0.3)]], 64, 64)
    both = drawn([[a, (63.7, 0.3), b, (0.1, 59.9)]], 64, 64)
    assert not (left & right).any()
    assert np.array_equal(left | right, both)


@pytest.mark.parametrize("seed", range(8))
def test_contours_of_opencv_come_back(seed):
    cv2 = pytest.importorskip("cv2")
    from scipy.ndimage import binary_fill_holes, gaussian_filter, label

    noise = gaussian_filter(np.random.default_rng(seed).normal(size=(40, 50)), 1.5)
    blobs, count = label(binary_fill_holes(noise > 0.1), np.ones((3, 3)))
    assert count
    for k in range(1, count + 1):
        mask = binary_fill_holes(blobs == k)
        found, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        back = np.zeros_like(mask)
        window, inside = contour(found[0][:, 0, :].astype(float), 40, 50)
        back[window] = inside
        assert np.array_equal(back, mask)


def test_contours_out_of_the_picture_are_refused():
    canvas = Canvas((4, 5), "x.json")
    for points in ([[5, 0]], [[0, 4]], [[-1, 0]], [[0.5, 0]], [[np.nan, 0]]):
        with pytest.raises(MsdmError, match=r"x\.json"):
            canvas.contour("nucleus", 1, np.array(points, float))


def test_later_instances_win_and_the_covered_are_counted():
    canvas = Canvas((5, 6), "x")
    canvas.polygons("nucleus", 1, [rings([SQUARE], "x")])
    canvas.polygons("nucleus", 2, [rings([[(2, 1), (4, 1), (4, 3), (2, 3)]], "x")])
    content = canvas.content(None)
    assert content.masks["nucleus"][1].tolist() == [0, 1, 2, 2, 0, 0]
    assert content.lost == 0
    canvas.polygons("nucleus", 3, [rings([[(0, 0), (6, 0), (6, 5), (0, 5)]], "x")])
    canvas.polygons("nucleus", 4, [rings([[(0.1, 0.1), (0.2, 0.1), (0.2, 0.2)]], "x")])
    assert canvas.content(None).lost == 3


@pytest.mark.parametrize("coordinates", [None, 3, [[1, 2]], [[[1]]], [[["a", "b"]]], [[[1, 2], [3]]], [[{}]]])
def test_coordinates_of_other_shapes_are_refused(coordinates):
    with pytest.raises(MsdmError, match="no list of points x, y"):
        rings(coordinates, "x")


def as_mask(runs, height, width):
    columns = np.zeros(height * width, np.int32)
    paint(columns, runs, 1)
    return columns.reshape(width, height).T > 0


def counts_of(mask):
    flat = mask.T.ravel()
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *edges, flat.size]).tolist()
    return [0, *counts] if flat[0] else counts


def compressed(counts):
    """pycocotools' rleToString (maskApi.c)."""
    text = ""
    for i, count in enumerate(counts):
        x = count - (counts[i - 2] if i > 2 else 0)
        more = True
        while more:
            c = x & 31
            x >>= 5
            more = x != -1 if c & 16 else x != 0
            text += chr((c | 32 if more else c) + 48)
    return text


def test_run_length_codes_of_both_kinds_are_columns():
    wanted = np.array([[0, 1, 0], [1, 1, 0]], bool)  # columns: 01 11 00
    assert np.array_equal(as_mask(from_pairs("2 3", (2, 3), "x"), 2, 3), wanted)
    assert np.array_equal(as_mask(from_counts([1, 3, 2], (2, 3), "x"), 2, 3), wanted)
    assert np.array_equal(as_mask(from_counts("132", (2, 3), "x"), 2, 3), wanted)
    assert np.array_equal(as_mask(from_counts([1.0, 3, 2], (2, 3), "x"), 2, 3), wanted)


@given(st.integers(0, 2**30), st.integers(1, 30), st.integers(1, 30))
@settings(max_examples=60, deadline=None)
def test_codes_come_back(seed, height, width):
    rng = np.random.default_rng(seed)
    mask = rng.random((height, width)) < rng.random()
    counts = counts_of(mask)
    assert np.array_equal(as_mask(from_counts(counts, mask.shape, "x"), height, width), mask)
    assert np.array_equal(as_mask(from_counts(compressed(counts), mask.shape, "x"), height, width), mask)
    starts = np.cumsum([0, *counts])[1::2][: len(counts[1::2])]
    pairs = " ".join(f"{s + 1} {n}" for s, n in zip(starts, counts[1::2], strict=True))
    assert np.array_equal(as_mask(from_pairs(pairs, mask.shape, "x"), height, width), mask)


@pytest.mark.parametrize(
    "text", ["1", "a b", "0 2", "6 2", "1 3 2 1", "1 -1", "99999999999999999999 1", "1 9223372036854775807"]
)
def test_pairs_that_are_wrong_are_refused(text):
    with pytest.raises(MsdmError, match=r"^x: "):
        from_pairs(text, (2, 3), "x")


@pytest.mark.parametrize(
    "counts",
    [
        [1, 2],
        [7],
        [-1, 7],
        None,
        "1",
        "a\x01",
        "o" * 30,
        "oo",
        [[6]],
        ["a"],
        6,
        [2**62, 2**62, 2**62, 2**62, 6],
        [2**70],
        [],
        [1.5, 3, 2],
        [1e308, 3, 2],
        [float("nan"), 3, 2],
        [True, True],
        [[1, 2], 3],
    ],
)
@pytest.mark.filterwarnings("error")
def test_counts_that_are_wrong_are_refused(counts):
    with pytest.raises(MsdmError, match=r"^x: "):
        from_counts(counts, (2, 3), "x")
