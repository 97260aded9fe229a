"""The Haar transform: known answers, and that it turns the space of images without stretching it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from msdm_kit.core.diffusion import q_sample
from msdm_kit.core.schedule import NoiseSchedule
from msdm_kit.plugins.autoencoders.haar import Haar, HaarConfig


def haar(levels=1, **words):
    return Haar(HaarConfig(levels=levels, **words))


def draw(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_four_pixels_are_an_average_and_three_details():
    image = torch.tensor([[1.0, 2.0], [3.0, 5.0]]).expand(1, 3, 2, 2) * torch.tensor([1, 10, 100]).view(
        3, 1, 1
    )
    average, across, down, both = 5.5, -1.5, -2.5, 0.5
    found = haar().encode(image)[0, :, 0, 0]
    assert found.tolist() == [x * k for x in (average, across, down, both) for k in (1, 10, 100)]


def test_two_levels_of_a_step():
    """A step at the middle: all of it is one coarse detail, and the average of 16 pixels times 4."""
    image = torch.zeros(1, 3, 4, 4)
    image[..., 2:] = 1
    found = haar(2).encode(image)[0, :, 0, 0]
    expected = torch.zeros(48)
    expected[:3], expected[3:6] = 2.0, -2.0
    assert torch.equal(found, expected)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(1, 3),
    st.sampled_from([1.0, 0.5, 1.7]),
    st.integers(0, 99),
)
def test_nothing_is_lost(levels, high, wide, scale, seed):
    own = haar(levels, scale=scale)
    image = draw(2, 3, high * own.stride, wide * own.stride, seed=seed)
    latent = own.encode(image)
    assert latent.shape == own.shape(image.shape) == (2, 3 * 4**levels, high, wide)
    torch.testing.assert_close(own.decode(latent), image, rtol=0, atol=2e-6)
    torch.testing.assert_close(latent.square().sum(), scale**2 * image.square().sum())
    torch.testing.assert_close(own.encode(own.decode(latent)), latent, rtol=0, atol=4e-6)


def test_sums_of_levels_come_back_bit_for_bit():
    """Every level of an 8-bit image, as a whole number: the transform of two levels is exact in fp32."""
    image = torch.arange(3 * 256).reshape(1, 3, 16, 16).float() % 256
    own = haar(2)
    assert torch.equal(own.decode(own.encode(image)), image)


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_it_is_orthonormal(levels):
    own, count = haar(levels), 3 * 4**levels
    matrix = own.encode(torch.eye(count).view(count, 3, own.stride, own.stride)).flatten(1)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(count), rtol=0, atol=1e-6)


def test_diffusion_of_coefficients_is_that_of_pixels():
    """Noise on the latent is the latent of noise on the image, and so is the squared error."""
    own, schedule = haar(2), NoiseSchedule.named("linear", 100)
    image, noise, index = draw(3, 3, 8, 12), draw(3, 3, 8, 12, seed=1), torch.tensor([0, 50, 99])
    inside = q_sample(schedule, own.encode(image), index, own.encode(noise))
    torch.testing.assert_close(inside, own.encode(q_sample(schedule, image, index, noise)), rtol=0, atol=3e-6)
    errors = [
        (a - b).square().mean((1, 2, 3)) for a, b in ((image, noise), (own.encode(image), own.encode(noise)))
    ]
    torch.testing.assert_close(*errors)


def test_clipping_is_that_of_the_image():
    own, image = haar(2, scale=0.7), 3 * draw(2, 3, 8, 8)
    clipped = own.clip(own.encode(image))
    torch.testing.assert_close(own.decode(clipped), image.clamp(-1, 1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("words", [{"levels": 0}, {"levels": 6}, {"scale": 0}, {"depth": 2}])
def test_illegal_settings(words):
    with pytest.raises(ValidationError):
        HaarConfig(**words)
