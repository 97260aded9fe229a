import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.color import rgb_from_hed

from msdm_kit.conditioners.reference_image import ReferenceImage
from msdm_kit.core.augment import pad_to_multiple
from msdm_kit.core.errors import MsdmError
from msdm_kit.core.sample import Appearance, Sample, recombine


def make(**config):
    return ReferenceImage(ReferenceImage.Config(**config), {})


def sample(image, id="s", **rest):
    image = np.asarray(image, np.float32)
    return Sample(id, {"nucleus": np.ones(image.shape[1:], np.int32)}, image, **rest)


def view(conditioner, field):
    return conditioner.observe(field)["view"]


def flat(red, green, blue, size=(2, 3)):
    return np.broadcast_to(np.array([red, green, blue], np.float32)[:, None, None], (3, *size))


def test_grey_is_luma():
    seen = view(make(), sample(flat(1, -1, 0.5)))
    assert seen.shape == (1, 2, 3)
    assert seen.dtype == torch.float32
    np.testing.assert_allclose(seen, 0.299 - 0.587 + 0.5 * 0.114, atol=1e-6)


@pytest.mark.parametrize("density", [0.0, 0.25, 0.5, 1.0])
def test_haematoxylin_is_its_optical_density(density):
    """Light by Beer and Lambert through haematoxylin of a density; through another stain, nothing."""
    for stain, wanted in ((0, density - 1), (2, -1)):
        light = 10 ** (-density * rgb_from_hed[stain])
        seen = view(make(view="haematoxylin"), sample(flat(*(2 * light - 1))))
        np.testing.assert_allclose(seen, wanted, atol=0.02)


def test_low_resolution_is_means_of_squares_and_of_what_is_left_at_the_border():
    image = np.zeros((3, 3, 5), np.float32)
    image[0] = [[0, 1, 0, 0, 0.5], [1, 0, 0, 0, -0.5], [0.2, 0.4, -1, 1, 0.25]]
    seen = view(make(view="low_resolution", factor=2), sample(image))
    assert seen.shape == (3, 3, 5)
    np.testing.assert_allclose(
        seen[0], [[0.5, 0.5, 0, 0, 0], [0.5, 0.5, 0, 0, 0], [0.3, 0.3, 0, 0, 0.25]], atol=1e-6
    )
    assert not seen[1:].any()


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 99),
    name=st.sampled_from(["grey", "haematoxylin", "low_resolution"]),
    size=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    factor=st.integers(2, 9),
)
def test_any_image_gives_a_map_of_its_size_within_bounds(seed, name, size, factor):
    image = np.random.default_rng(seed).uniform(-1, 1, (3, *size))
    conditioner = make(view=name, factor=factor)
    signal = conditioner.encode(conditioner.collate([conditioner.observe(sample(image))]))
    assert signal.data.shape == (1, conditioner.spec.width, *size)
    assert float(signal.data.abs().max()) <= 1
    assert (conditioner.null(signal).data == -2).all()


def test_it_shows_the_field_that_gives_the_appearance_padded_as_the_masks_are():
    rng = np.random.default_rng(0)
    masks, look = (sample(rng.uniform(-1, 1, (3, 6, 7)), id) for id in "ab")
    target = recombine(masks, look)
    seen = view(make(), target)
    np.testing.assert_array_equal(seen, view(make(), look))
    padded = view(make(), pad_to_multiple(target, 4))
    assert padded.shape == (1, 8, 8)
    np.testing.assert_array_equal(padded[:, :6, :7], seen)
    np.testing.assert_array_equal(padded[:, 6:, :7], seen[:, -1:].expand(-1, 2, -1))


def test_an_appearance_of_another_size_is_scaled():
    small = sample(flat(0.5, 0.5, 0.5, (4, 4)))
    large = sample(flat(0, 0, 0, (8, 12)))
    seen = view(make(), recombine(large, small))
    assert seen.shape == (1, 8, 12)
    np.testing.assert_allclose(seen, 0.5, atol=1e-6)


def test_an_appearance_without_an_image_is_refused():
    field = sample(flat(0, 0, 0), look=Appearance())
    with pytest.raises(MsdmError, match="has no image for reference_image; take the appearance of a field"):
        make().observe(field)
