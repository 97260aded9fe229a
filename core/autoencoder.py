"""What stands between images and what is diffused: an autoencoder, or nothing."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .checkpoint import tensors_hash
from .conditioning import PluginConfig
from .errors import MsdmError
from .precision import full_precision


class Autoencoder(nn.Module, ABC):
    """Images to latents and back: diffusion is then in latents (Rombach et al. 2022, section 3.1).

    A plugin sets `Config`, and `channels` and `stride` in its constructor, which reads no weights: that is
    for `initialise`. It is frozen and deterministic: one image has one latent. Its weights are not saved with
    those of a run, which holds their `fingerprint` instead.
    """

    Config: ClassVar[type[PluginConfig]] = PluginConfig
    quantised: ClassVar[bool] = False
    """Whether latents are levels of an 8-bit image in [-1, 1], whose likelihood is known."""
    channels: int
    """Of the latents; best of about unit variance each."""
    stride: int
    """Side of the pixels of a latent: image size over latent size."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config

    def initialise(self) -> None:
        """Load pretrained weights, if the config names any.

        Raises
        ------
        MsdmError
            They are not there, or are damaged.
        """

    @abstractmethod
    def encode(self, image: Tensor) -> Tensor:
        """Latents (B, channels, H/stride, W/stride) of images (B, 3, H, W) float32 in [-1, 1].

        H and W are multiples of `stride`; a row depends on its own image alone.
        """

    @abstractmethod
    def decode(self, latent: Tensor) -> Tensor:
        """Images (B, 3, H, W) of latents; they are clipped to [-1, 1] afterwards."""

    def clip(self, latent: Tensor) -> Tensor:
        """The latent of the image, clipped to [-1, 1]: what ``sample.clip`` does at every step.

        For where that is cheap, and a matter of each place of the latent alone; otherwise the latent as it
        is.
        """
        return latent

    def shape(self, image: Sequence[int]) -> tuple[int, ...]:
        """The shape of the latents of images (..., 3, H, W)."""
        *batch, _, height, width = image
        return (*batch, self.channels, height // self.stride, width // self.stride)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the weights and buffers, in hexadecimal; of one without any, always the same."""
        return tensors_hash(self.state_dict())


class Pixels(Autoencoder):
    """No autoencoder: what is diffused is the image."""

    quantised = True
    channels = 3
    stride = 1

    def __init__(self) -> None:
        super().__init__(PluginConfig())

    def encode(self, image: Tensor) -> Tensor:
        return image

    def decode(self, latent: Tensor) -> Tensor:
        return latent

    def clip(self, latent: Tensor) -> Tensor:
        return latent.clamp(-1, 1)


def title(autoencoder: Autoencoder) -> str:
    """An autoencoder as messages name it."""
    return f"autoencoder ({type(autoencoder).__module__}.{type(autoencoder).__qualname__})"


def to_latents(autoencoder: Autoencoder, image: Tensor) -> Tensor:
    """Latents of images (B, 3, H, W) in [-1, 1], in float32 and channels_last, without gradients.

    Raises
    ------
    MsdmError
        The autoencoder fails, or gives something else than it says.
    """
    return _called(autoencoder.encode, autoencoder, image, autoencoder.shape(image.shape))


def to_images(autoencoder: Autoencoder, latent: Tensor) -> Tensor:
    """Images (B, 3, H, W) of latents, not clipped, in float32 and channels_last, without gradients.

    Raises
    ------
    MsdmError
        As `to_latents`.
    """
    stride = autoencoder.stride
    size = (latent.shape[-2] * stride, latent.shape[-1] * stride)
    return _called(autoencoder.decode, autoencoder, latent, (len(latent), 3, *size))


def _called(
    function: Callable[[Tensor], Tensor], owner: Autoencoder, given: Tensor, wanted: tuple[int, ...]
) -> Tensor:
    what = f"{title(owner)}: {function.__name__}"
    try:
        with torch.no_grad(), full_precision(given.device):
            out = function(given)
    except (MsdmError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())
        raise MsdmError(f"{what} fails: {text}; mend or update its plugin") from error
    if not isinstance(out, Tensor) or tuple(out.shape) != wanted or out.device != given.device:
        form = f"{tuple(out.shape)} on {out.device}" if isinstance(out, Tensor) else type(out).__name__
        raise MsdmError(
            f"{what} makes {form} of {tuple(given.shape)} on {given.device}, and it is to be {wanted}: mend "
            f"its plugin"
        )
    return out.float().contiguous(memory_format=torch.channels_last)
