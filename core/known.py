"""What is known of an image before it is painted: where the walk begins, and pixels that it leaves alone."""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from .autoencoder import Autoencoder, to_latents
from .diffusion import Denoised, eps_from_x0, extract, posterior_mean, q_sample
from .errors import MsdmError
from .recipe import SampleSection
from .schedule import NoiseSchedule
from .solvers import Model


@dataclass(frozen=True)
class Known:
    """Real images of the places that are painted.

    Attributes
    ----------
    image : Tensor (B, 3, H, W) float32 in [-1, 1]
        Or latents, once `encoded`: the walk is in these.
    keep : Tensor (B, 1, H, W) bool, or None
        Pixels that stay as they are; None keeps none.
    """

    image: Tensor
    keep: Tensor | None = None

    def encoded(self, autoencoder: Autoencoder) -> "Known":
        """The same in latents, as `Blended Latent Diffusion` has it (Avrahami et al. 2023, section 4.1).

        A place of a latent is kept where all pixels of its square are.
        """
        keep = self.keep
        if keep is not None and autoencoder.stride > 1:
            keep = F.max_pool2d((~keep).float(), autoencoder.stride) == 0
        return Known(to_latents(autoencoder, self.image), keep)

    def to(self, device: torch.device) -> "Known":
        """The same on a device."""
        image = self.image.to(device, memory_format=torch.channels_last)
        return Known(image, None if self.keep is None else self.keep.to(device))

    def begin(self, noise: Tensor, schedule: NoiseSchedule, settings: SampleSection) -> Tensor:
        """Where the walk of a schedule begins.

        With ``start: image``, and at pixels that are kept, it is the image with the noise of the schedule's
        last step (SDEdit, Meng et al. 2022, algorithm 1); with ``strength`` 1 and everywhere else it is
        noise.

        Parameters
        ----------
        noise : Tensor (B, C, H, W)
            Standard normal.
        schedule : NoiseSchedule
            That is walked.
        settings : SampleSection

        Returns
        -------
        Tensor (B, C, H, W)
        """
        index = torch.full((len(noise),), len(schedule) - 1, device=schedule.betas.device)
        noised = q_sample(schedule, self.image, index, noise)
        if settings.from_image and settings.strength < 1:
            return noised
        return noise if self.keep is None else torch.where(self.keep, noised, noise)

    def hold(self, model: Model, schedule: NoiseSchedule) -> Model:
        """The model, with the known pixels in place of what it says there.

        The solver then carries x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps of the known x_0 along at these
        pixels, from whatever noise it began with: each step sees them at its own noise level, and x_0 comes
        out. This is the replacement of Song et al. 2021 (Score-Based Generative Modeling through SDEs,
        appendix I.2) and of RePaint (Lugmayr et al. 2022, equation 8) without the latter's resampling. It is
        done on the denoised image and not on x_t, so that it serves every solver.

        Parameters
        ----------
        model : callable (x, i) -> Denoised
        schedule : NoiseSchedule
            That `i` counts in.
        """
        if self.keep is None:
            return model
        return lambda x, i: self.put(model(x, i), x, i, schedule)

    def put(self, said: Denoised, x: Tensor, i: int, schedule: NoiseSchedule) -> Denoised:
        """What a model says of x at position `i`, with the known pixels in place: elementwise."""
        if self.keep is None:
            return said
        keep, image = self.keep, self.image
        index = torch.full((len(x),), i, device=schedule.betas.device)
        small = extract(schedule.posterior_log_variance, index, x)
        return replace(
            said,
            x0=torch.where(keep, image, said.x0),
            eps=torch.where(keep, eps_from_x0(schedule, image, x, index), said.eps),
            mean=torch.where(keep, posterior_mean(schedule, image, x, index), said.mean),
            log_variance=torch.where(keep, small, said.log_variance),
        )

    def finish(self, x: Tensor) -> Tensor:
        """The painted image (B, 3, H, W), its known pixels free of rounding."""
        return x if self.keep is None else torch.where(self.keep, self.image, x)

    @staticmethod
    def check(known: "Known | None", settings: SampleSection, size: tuple[int, int]) -> None:
        """Check that there is what the settings ask for, of the size that is painted.

        Raises
        ------
        MsdmError
            There is not.
        """
        if known is None:
            if settings.needs_image:
                raise MsdmError(
                    "sampling starts from an image or keeps pixels of one, and none is given; give it, or "
                    "set start: noise and keep: nothing"
                )
        elif tuple(known.image.shape[2:]) != size:
            height, width = known.image.shape[2:]
            raise MsdmError(
                f"the known image is {height} x {width}, and {size[0]} x {size[1]} are painted; give one of "
                f"that size"
            )
