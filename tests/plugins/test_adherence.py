"""How well an image follows its mask and its colours."""

import json
import math
from importlib.resources import as_file, files

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msdm_kit.core.dataset import FieldDataset
from msdm_kit.core.errors import MsdmError
from msdm_kit.core.sample import Appearance, ColourStatistics, Image, Labels, Sample, recombine
from msdm_kit.plugins.metrics.adherence import (
    Adherence,
    colour_adherence,
    colour_shift,
    mask_adherence,
    measure,
    summarise,
)

# Optical densities of haematoxylin and eosin in R, G, B (Ruifrok and Johnston 2001, table 1).
HAEMATOXYLIN, EOSIN = (0.65, 0.70, 0.29), (0.07, 0.99, 0.11)


def squares(shift: int = 0) -> Labels:
    labels = np.zeros((64, 80), np.int32)
    labels[8:28, 10 + shift : 30 + shift] = 1
    labels[36:56, 40 + shift : 60 + shift] = 2
    return labels


def stained(where: Labels, amount: float = 0.7, density: tuple[float, float, float] = HAEMATOXYLIN) -> Image:
    """White, with one stain where the labels are (Lambert and Beer)."""
    light = 10 ** (-amount * np.array(density)[:, None, None] * (where > 0))
    return (2 * light - 1).astype(np.float32)


@pytest.mark.parametrize("amount", [0.05, 0.7, 1.5])
def test_stain_inside_and_white_outside_is_dice_1(amount: float) -> None:
    assert mask_adherence(stained(squares(), amount), squares()) == 1.0


@pytest.mark.parametrize("shift", [1, 5, 10, 19, 20])
def test_a_shifted_mask_has_the_overlap_as_dice(shift: int) -> None:
    assert mask_adherence(stained(squares(shift)), squares()) == pytest.approx((20 - shift) / 20)


def test_a_mask_twice_as_large_as_the_stain() -> None:
    large = np.zeros((64, 80), np.int32)
    large[:20, :40] = 1
    small = np.where(np.arange(80) < 20, large, 0).astype(np.int32)
    assert mask_adherence(stained(small), large) == pytest.approx(2 / 3)


def test_eosin_is_not_taken_for_haematoxylin() -> None:
    everywhere = np.ones((64, 80), np.int32)
    pink = (stained(everywhere, 0.4, EOSIN) + 1) / 2
    image = (2 * pink * (stained(squares()) + 1) / 2 - 1).astype(np.float32)
    assert mask_adherence(image, squares()) == 1.0


@pytest.mark.parametrize("value", [-1.0, -0.3, 0.2, 1.0])
def test_a_flat_image_follows_no_mask(value: float) -> None:
    assert mask_adherence(np.full((3, 64, 80), value, np.float32), squares()) == 0.0


def test_a_flat_purple_image_follows_no_mask() -> None:
    assert mask_adherence(stained(np.ones((64, 80), np.int32)), squares()) == 0.0


def test_an_empty_mask_cannot_be_followed() -> None:
    empty = np.zeros((64, 80), np.int32)
    assert math.isnan(mask_adherence(stained(squares()), empty))
    assert math.isnan(colour_adherence(stained(squares()), empty, (0, 0, 0)))


def test_values_out_of_range_are_clipped() -> None:
    image = stained(squares())
    image[:, squares() == 0] = 1.3
    assert mask_adherence(image, squares()) == 1.0
    assert colour_adherence(np.full((3, 64, 80), 1.3, np.float32), squares(), (1, 1, 1)) == 0.0


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.permutations([1, 2, 3]))
def test_adherence_is_a_share_and_blind_to_the_numbers_of_instances(seed: int, numbers: list[int]) -> None:
    rng = np.random.default_rng(seed)
    image = rng.uniform(-1, 1, (3, 12, 9)).astype(np.float32)
    labels = rng.integers(0, 4, (12, 9)).astype(np.int32)
    labels[0, 0] = 1
    renamed = np.array([0, *numbers], np.int32)[labels]
    assert 0 <= mask_adherence(image, labels) <= 1
    assert mask_adherence(image, labels) == mask_adherence(image, renamed)
    assert mask_adherence(image[:, ::-1], labels[::-1]) == mask_adherence(image, labels)


def test_colour_error_of_a_constant_offset() -> None:
    image = np.random.default_rng(0).uniform(-0.5, 0.5, (3, 64, 80)).astype(np.float32)
    mean = image[:, squares() > 0].astype(np.float64).mean(axis=1)
    assert colour_adherence(image, squares(), tuple(mean)) == pytest.approx(0, abs=1e-9)
    offset = np.array([10, -20, 30]) / 127.5
    assert colour_adherence(image, squares(), tuple(mean + offset)) == pytest.approx(20)
    assert colour_shift(image, squares(), tuple(mean + offset)) == pytest.approx(tuple(-127.5 * offset))
    image[:, squares() == 0] = 1  # what is outside does not count
    assert colour_adherence(image, squares(), tuple(mean)) == pytest.approx(0, abs=1e-9)


def test_black_against_white_is_255_levels() -> None:
    assert colour_adherence(np.full((3, 64, 80), -1, np.float32), squares(), (1, 1, 1)) == 255


@pytest.mark.parametrize("measured", [mask_adherence, lambda i, m: colour_adherence(i, m, (0, 0, 0))])
@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((64, 80, 3), np.float32), "does not fit"),
        (np.zeros((3, 64, 79), np.float32), "does not fit"),
        (np.full((3, 64, 80), np.nan, np.float32), "not finite"),
    ],
)
def test_an_image_that_does_not_fit_is_refused(measured, image, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(MsdmError, match=message):
        measured(image, squares())


def test_a_colour_has_three_channels() -> None:
    with pytest.raises(MsdmError, match="this one has 1 values"):
        colour_adherence(stained(squares()), squares(), (0.0,))


def test_measure_takes_the_conditions_of_the_target() -> None:
    morphology = Sample("m", {"cell": squares(4), "nucleus": squares()}, image=stained(squares()))
    donor = Sample("d", {"nucleus": squares(9)}, image=stained(squares(9), 0.5))
    target = recombine(morphology, donor)
    painting = stained(squares(), 0.5)
    found = measure(target, painting, real=stained(squares(5)))
    assert found.id == "m"
    assert found.mask == 1.0
    assert found.mask_real == pytest.approx(0.75)
    assert found.colour == pytest.approx(0, abs=1e-4)
    # the nuclei of the morphology's own image are darker than those that were asked for
    apart = np.abs(10 ** (-0.7 * np.array(HAEMATOXYLIN)) - 10 ** (-0.5 * np.array(HAEMATOXYLIN))).mean() * 255
    own = measure(target, stained(squares(), 0.7))
    assert own.colour == pytest.approx(apart, rel=1e-4)
    assert own.mask_real is None


def test_measure_on_another_kind_and_with_colours_given_by_hand() -> None:
    given_by_hand = Appearance(statistics={"cell": ColourStatistics((0.2, 0.2, 0.2), (0.1, 0.1, 0.1))})
    target = Sample("x", {"cell": squares(), "gland": squares(9)}, look=given_by_hand)
    found = measure(target, np.full((3, 64, 80), 0.3, np.float32))
    assert found.mask == 0.0
    assert found.colour == pytest.approx(12.75, rel=1e-5)


@pytest.mark.parametrize(
    "look",
    [
        Appearance(),
        Appearance(stained(squares()), {"cell": squares()}),
        Appearance(stained(squares()), {"nucleus": np.zeros((64, 80), np.int32)}),
    ],
)
def test_no_colour_wanted_is_none(look: Appearance) -> None:
    assert measure(Sample("x", {"nucleus": squares()}, look=look), stained(squares())).colour is None


def test_measure_needs_a_mask() -> None:
    with pytest.raises(MsdmError, match="'x' has no mask"):
        measure(Sample("x", {}), stained(squares()))


def test_the_summary_leaves_out_what_is_not_known() -> None:
    fields = [
        Adherence("a", 0.6, 0.8, 10.0),
        Adherence("b", 0.4, 0.2, None),
        Adherence("c", 0.8, None, 20.0),
        Adherence("d", math.nan, math.nan, math.nan),
    ]
    assert summarise(fields) == pytest.approx(
        {
            "mask_adherence": 0.6,
            "mask_adherence_real": 0.5,
            "mask_adherence_ratio": 1.0,  # 0.5 / 0.5, over a and b alone
            "colour_error_levels": 15.0,
            "fields": 4.0,
        }
    )
    assert summarise([]) == {"fields": 0.0}
    assert summarise([Adherence("a", 0.5, 0.0)]) == {
        "mask_adherence": 0.5,
        "mask_adherence_real": 0.0,
        "fields": 1.0,
    }
    json.dumps(summarise(fields), allow_nan=False)


def test_real_fields_follow_their_own_masks() -> None:
    with as_file(files("msdm_kit.plugins") / "datasets" / "histology-nuclei") as root:
        data = FieldDataset(root, masks=("nucleus",), split="test_mixed")
    fields = [data[i] for i in range(len(data))]
    found = summarise(measure(s, s.image, real=s.image) for s in fields if s.image is not None)
    assert found["fields"] == 20
    assert found["mask_adherence"] == pytest.approx(0.769, abs=0.003)
    assert found["mask_adherence_ratio"] == 1.0
    assert found["colour_error_levels"] == pytest.approx(0, abs=1e-9)
