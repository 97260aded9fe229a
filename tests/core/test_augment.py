"""Image and masks move together."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from msdm_kit.core.augment import augment, centre_crop, pad_to_multiple
from msdm_kit.core.errors import MsdmError
from msdm_kit.core.sample import Appearance, Sample


def numbered(height, width):
    """Every pixel is its own instance, and the image holds the numbers, so that a pixel can be followed."""
    labels = np.arange(1, height * width + 1, dtype=np.int32).reshape(height, width)
    image = np.stack([labels, -labels, 0.5 * labels]).astype(np.float32)
    return Sample("f1", {"cell": labels, "nucleus": labels * 2}, image, {"assay": "H&E"})


def together(sample):
    labels = sample.masks["cell"]
    return (
        np.array_equal(sample.image[0], labels)
        and np.array_equal(sample.image[1], -labels)
        and np.array_equal(sample.masks["nucleus"], 2 * labels)
    )


def all_contiguous(sample):
    return all(a.flags.c_contiguous for a in (sample.image, *sample.masks.values()))


@given(
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(1, 9),
    st.booleans(),
    st.booleans(),
    st.integers(0, 10**6),
)
def test_image_and_masks_stay_together(height, width, crop, flips, turns, seed):
    crop = min(crop, height, width)
    field = numbered(height, width)
    out = augment(field, crop=crop, flips=flips, turns=turns, rng=np.random.default_rng(seed))
    assert out.image.shape == (3, crop, crop)
    assert out.masks["cell"].dtype == np.int32
    assert out.image.dtype == np.float32
    assert together(out)
    assert all_contiguous(out)
    labels = out.masks["cell"]
    assert set(np.unique(labels)) <= set(np.unique(field.masks["cell"]))
    # Neighbours in the crop are neighbours in the field: the steps along the axes are 1 and `width`.
    if crop > 1:
        steps = {abs(int(labels[0, 1] - labels[0, 0])), abs(int(labels[1, 0] - labels[0, 0]))}
        assert steps == {1, width}
    assert (out.id, out.metadata) == (field.id, field.metadata)
    again = augment(field, crop=crop, flips=flips, turns=turns, rng=np.random.default_rng(seed))
    assert np.array_equal(again.image, out.image)


def outcomes(flips, turns):
    field = numbered(2, 2)
    rngs = (np.random.default_rng(i) for i in range(200))
    out = [augment(field, crop=2, flips=flips, turns=turns, rng=rng).masks["cell"] for rng in rngs]
    return {tuple(labels.ravel().tolist()) for labels in out}


def test_flips_and_turns_reach_exactly_their_group():
    assert outcomes(False, False) == {(1, 2, 3, 4)}
    assert outcomes(True, False) == {(1, 2, 3, 4), (2, 1, 4, 3), (3, 4, 1, 2), (4, 3, 2, 1)}
    assert outcomes(False, True) == {(1, 2, 3, 4), (2, 4, 1, 3), (4, 3, 2, 1), (3, 1, 4, 2)}
    assert len(outcomes(True, True)) == 8


def test_every_crop_is_reached_and_does_not_depend_on_the_switches():
    field = numbered(3, 5)
    seen = set()
    for i in range(200):
        plain = augment(field, crop=2, flips=False, turns=False, rng=np.random.default_rng(i))
        turned = augment(field, crop=2, flips=True, turns=True, rng=np.random.default_rng(i))
        assert set(plain.masks["cell"].ravel()) == set(turned.masks["cell"].ravel())
        seen.add(int(plain.masks["cell"][0, 0]))
    assert seen == {1, 2, 3, 4, 6, 7, 8, 9}


def test_the_appearance_is_that_of_the_crop_unless_it_was_given():
    field = numbered(4, 4)
    out = augment(field, crop=2, flips=True, turns=True, rng=np.random.default_rng(0))
    assert out.appearance.image is out.image
    given_look = Appearance(statistics={})
    kept = Sample("f1", field.masks, field.image, look=given_look)
    assert augment(kept, crop=2, flips=True, turns=True, rng=np.random.default_rng(0)).look is given_look


def test_a_field_without_an_image():
    field = Sample("f1", {"cell": np.ones((4, 4), np.int32)})
    assert augment(field, crop=2, flips=True, turns=True, rng=np.random.default_rng(0)).image is None


@pytest.mark.parametrize(
    "cut",
    [
        lambda s: augment(s, crop=4, flips=True, turns=True, rng=np.random.default_rng(0)),
        lambda s: centre_crop(s, 4),
    ],
)
def test_a_field_smaller_than_the_crop(cut):
    with pytest.raises(MsdmError) as caught:
        cut(numbered(3, 7))
    assert str(caught.value).startswith("field 'f1' is 3 x 7, smaller than the crop of 4 x 4; ")
    assert "\n" not in str(caught.value)


def test_centre_crop():
    out = centre_crop(numbered(4, 5), 2)
    assert out.masks["cell"].tolist() == [[7, 8], [12, 13]]
    assert together(out)
    assert all_contiguous(out)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 8))
def test_padding(height, width, multiple):
    field = numbered(height, width)
    out = pad_to_multiple(field, multiple)
    tall, wide = out.size
    assert tall % multiple == wide % multiple == 0
    assert tall - height < multiple
    assert wide - width < multiple
    assert np.array_equal(out.masks["cell"][:height, :width], field.masks["cell"])
    assert np.array_equal(out.image[:, :height, :width], field.image)
    assert not out.masks["cell"][height:].any()
    assert not out.masks["cell"][:, width:].any()
    assert (out.image[:, -1, -1] == field.image[:, -1, -1]).all()
    assert all_contiguous(out)
