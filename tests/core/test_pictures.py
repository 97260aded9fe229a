"""Outlines, masks as pictures, and contact sheets."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from PIL import Image as Pillow

from msdm_kit.core.errors import MsdmError
from msdm_kit.core.pictures import (
    SheetRow,
    condition_picture,
    contact_sheet,
    kind_colours,
    outlines,
    overlay,
    save_sheet,
)
from msdm_kit.core.sample import Image, Labels

COLOURS = kind_colours(["nucleus", "cell"])
# A real image and a painting that no smoothed letter (grey) and no outline has the colour of.
REAL, PAINTED = (1.0, -0.2, 0.6), (-0.2, -1.0, 0.2)
REAL_LEVELS, PAINTED_LEVELS = (255, 102, 204), (102, 0, 153)


def square(height: int, width: int, low: int, high: int) -> Labels:
    labels = np.zeros((height, width), np.int32)
    labels[low:high, low:high] = 1
    return labels


def flat(height: int, width: int, colour: tuple[float, float, float] = (0.2, 0.2, 0.2)) -> Image:
    return np.broadcast_to(np.array(colour, np.float32)[:, None, None], (3, height, width)).copy()


def row(height: int, width: int, *, real: bool = True, caption: str = "a field") -> SheetRow:
    masks = {"cell": square(height, width, 8, 40), "nucleus": square(height, width, 16, 32)}
    return SheetRow(caption, flat(height, width, REAL) if real else None, masks, flat(height, width, PAINTED))


def pixels_of(sheet: NDArray[np.uint8], colour: tuple[int, int, int]) -> int:
    return int((sheet == colour).all(axis=-1).sum())


def test_outlines_by_hand() -> None:
    labels = np.array(
        [
            [0, 0, 0, 0, 0, 0],
            [0, 1, 1, 1, 2, 2],
            [0, 1, 1, 1, 2, 2],
            [0, 1, 1, 1, 2, 2],
            [0, 0, 0, 0, 0, 3],
        ],
        np.int32,
    )
    wanted = np.array(
        [
            [0, 0, 0, 0, 0, 0],
            [0, 1, 1, 1, 1, 1],
            [0, 1, 0, 1, 1, 0],  # the field's right edge is no boundary
            [0, 1, 1, 1, 1, 1],
            [0, 0, 0, 0, 0, 1],
        ],
        bool,
    )
    np.testing.assert_array_equal(outlines(labels), wanted)


def test_a_diagonal_neighbour_makes_no_boundary() -> None:
    labels = np.ones((3, 3), np.int32)
    labels[0, 0] = 0
    assert outlines(labels).tolist() == [[False, True, False], [True, False, False], [False, False, False]]


@settings(max_examples=40, deadline=None)
@given(hnp.arrays(np.int32, st.tuples(*[st.integers(1, 7)] * 2), elements=st.integers(0, 3)))
def test_outlines_agree_with_their_definition(labels: Labels) -> None:
    height, width = labels.shape
    for y, x in np.ndindex(height, width):
        near = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
        near = [(j, i) for j, i in near if 0 <= j < height and 0 <= i < width]
        edge = labels[y, x] > 0 and any(labels[p] != labels[y, x] for p in near)
        assert outlines(labels)[y, x] == edge


def test_overlay_colours_the_outlines_and_nothing_else() -> None:
    image = np.full((24, 20, 3), 128, np.uint8)
    cell, nucleus = square(24, 20, 2, 16), square(24, 20, 5, 12)
    picture = overlay(image, {"nucleus": nucleus, "cell": cell})
    assert (image == 128).all()
    assert (picture[outlines(nucleus)] == COLOURS["nucleus"]).all()
    assert (picture[outlines(cell)] == COLOURS["cell"]).all()
    assert (picture[~(outlines(cell) | outlines(nucleus))] == 128).all()


@pytest.mark.parametrize("order", [("cell", "nucleus"), ("nucleus", "cell")])
def test_the_smaller_kind_is_on_top_whatever_the_order(order: tuple[str, str]) -> None:
    masks = {"cell": square(20, 20, 2, 16), "nucleus": square(20, 20, 2, 8)}
    picture = overlay(np.zeros((20, 20, 3), np.uint8), {kind: masks[kind] for kind in order})
    assert tuple(picture[2, 2]) == COLOURS["nucleus"]


def test_condition_picture_is_white_outside_and_tells_kinds_and_outlines_apart() -> None:
    cell, nucleus = square(24, 20, 2, 16), square(24, 20, 5, 12)
    picture = condition_picture({"cell": cell, "nucleus": nucleus})
    assert picture.shape == (24, 20, 3)
    assert picture.dtype == np.uint8
    assert (picture[cell == 0] == 255).all()
    points = [
        (0, 0),
        (2, 2),
        (3, 3),
        (5, 5),
        (8, 8),
    ]  # white, cell's outline, cell, nucleus's outline, nucleus
    assert len({tuple(picture[p]) for p in points}) == len(points)


def test_kinds_keep_their_colour_and_no_two_share_one() -> None:
    colours = kind_colours(["gland", "nucleus", "cell", "vessel", "gland"])
    assert len(colours) == len(set(colours.values())) == 4
    assert colours["nucleus"] == COLOURS["nucleus"]
    assert colours["cell"] == COLOURS["cell"]
    assert len(kind_colours(map(str, range(9)))) == 9


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: overlay(np.zeros((8, 8, 3), np.uint8), {"cell": np.ones((8, 9), np.int32)}), "'cell' mask"),
        (
            lambda: condition_picture({"a": np.ones((8, 8), np.int32), "b": np.ones((4, 4), np.int32)}),
            "mask has shape",
        ),
        (lambda: condition_picture({}), "no masks"),
        (lambda: contact_sheet([]), "no fields"),
        (
            lambda: contact_sheet(
                [SheetRow("x", None, {"nucleus": np.ones((4, 4), np.int32)}, flat(64, 64))]
            ),
            "'nucleus' mask has shape",
        ),
        (lambda: contact_sheet([SheetRow("x", None, {}, flat(64, 64, (np.nan, 0, 0)))]), "not finite"),
    ],
)
def test_what_does_not_fit_is_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(MsdmError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


def test_a_sheet_holds_four_tiles_per_row_at_their_size() -> None:
    sheet = contact_sheet([row(256, 320)] * 2, title="title")
    assert sheet.dtype == np.uint8
    height, width, channels = sheet.shape
    assert channels == 3
    assert 4 * 320 < width < 4 * 320 * 1.1
    assert 2 * 256 < height < 2 * 256 * 1.4
    # the real image whole, and two paintings, one of them with outlines on it
    outlined = int(sum(outlines(m).sum() for m in row(256, 320).masks.values()))
    assert pixels_of(sheet, REAL_LEVELS) == 2 * 256 * 320
    assert pixels_of(sheet, PAINTED_LEVELS) == 2 * (2 * 256 * 320 - outlined)


def test_small_tiles_are_enlarged_by_a_whole_factor_and_outlined_after_it() -> None:
    sheet = contact_sheet([row(64, 48)])
    assert pixels_of(sheet, REAL_LEVELS) == 64 * 48 * 9
    # squares of 32 and 16 pixels, three times as large, have outlines one pixel wide
    outlined = 4 * (96 - 1) + 4 * (48 - 1)
    assert pixels_of(sheet, PAINTED_LEVELS) == 2 * 64 * 48 * 9 - outlined


def test_fields_of_different_size_are_padded_with_white() -> None:
    sheet = contact_sheet([row(200, 320), row(240, 192)])
    assert pixels_of(sheet, REAL_LEVELS) == 200 * 320 + 240 * 192
    assert (sheet[:, -1] == 255).all()
    assert (sheet[-1] == 255).all()


def test_without_a_real_image_or_masks_a_grey_tile_says_so() -> None:
    sheet = contact_sheet([SheetRow("", None, {}, flat(200, 200, PAINTED))])
    grey = (sheet == 226).all(axis=-1)
    assert 2 * 200 * 200 * 0.95 < grey.sum() < 2 * 200 * 200
    assert pixels_of(sheet, PAINTED_LEVELS) == 2 * 200 * 200


def test_text_is_drawn_and_a_long_one_is_cut_at_the_sheets_width() -> None:
    plain = contact_sheet([row(256, 320, caption="")])
    named = contact_sheet([row(256, 320, caption="a name")])
    long = contact_sheet([row(256, 320, caption="word\n" * 5000)], title="title " * 500)
    assert plain.shape == named.shape == long.shape
    assert (plain != named).any()
    assert (long[:, -1] == 255).all()
    # what changed lies below the tiles
    assert (plain != named).any(axis=(1, 2)).argmax() > 256


def test_saving_replaces_a_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "new" / "sheet"
    for rows in ([row(64, 64)], [row(64, 64, real=False)]):
        save_sheet(path, rows, "title")
        with Pillow.open(path) as picture:
            assert (picture.format, picture.mode) == ("PNG", "RGB")
            np.testing.assert_array_equal(np.asarray(picture), contact_sheet(rows, title="title"))
        assert [p.name for p in path.parent.iterdir()] == ["sheet"]


def test_a_sheet_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "sheet.png").mkdir()
    with pytest.raises(MsdmError, match="cannot write"):
        save_sheet(tmp_path / "sheet.png", [row(64, 64)])
    assert [p.name for p in tmp_path.iterdir()] == ["sheet.png"]
