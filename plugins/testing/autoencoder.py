"""What every autoencoder owes the engine, whoever wrote it."""

import copy
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from ...core.autoencoder import Autoencoder
from .case import Configured, built, devices, same
from .fields import painted

_SQUARES = (4, 6)
"""Places of a latent down and across."""


class AutoencoderConformance(Configured):
    """The checks of an autoencoder. One that needs weights takes a small one of its kind in `settings`."""

    kind = "autoencoder"
    base: ClassVar[type] = Autoencoder

    def build(self) -> Autoencoder:
        made: Autoencoder = self.load()(self.config())
        made.initialise()
        return made.eval().requires_grad_(False)

    @property
    def autoencoder(self) -> Autoencoder:
        return built(self)  # type: ignore[no-any-return]

    def images(self) -> Tensor:
        """Three images of cells, higher than they are wide."""
        size = (_SQUARES[0] * self.autoencoder.stride, _SQUARES[1] * self.autoencoder.stride)
        return torch.stack([torch.from_numpy(painted(i, size, cells=i + 1)[0]) for i in range(3)])

    def test_shapes(self) -> None:
        own, images = self.autoencoder, self.images()
        before = images.clone()
        latents = own.encode(images)
        wanted = (3, own.channels, *_SQUARES)
        self.check(
            latents.shape == wanted, f"{tuple(images.shape)} became {tuple(latents.shape)}, not {wanted}"
        )
        self.check(own.shape(images.shape) == wanted, f"`shape` says {own.shape(images.shape)}, not {wanted}")
        again = own.decode(latents)
        self.check(
            again.shape == images.shape, f"decoded it is {tuple(again.shape)}, not {tuple(images.shape)}"
        )
        finite = latents.isfinite().all() and again.isfinite().all()
        self.check(finite, "its numbers are not finite")
        self.check(torch.equal(images, before), "`encode` changes the images that it is given")

    def test_the_same_image_has_one_latent(self) -> None:
        own, images = self.autoencoder, self.images()
        latents = own.encode(images)
        self.check(
            torch.equal(own.encode(images), latents), "`encode` draws: it gives another latent each time"
        )
        self.check(
            torch.equal(own.decode(latents), own.decode(latents)), "`decode` draws: it gives another image"
        )
        twin = self.build()
        self.close(twin.encode(images), latents, "a second one of these settings gives other latents")
        self.check(twin.fingerprint == own.fingerprint, "a second one has another fingerprint")
        self.check(not torch.allclose(latents[0], latents[1]), "different images have the same latent")

    def test_a_row_depends_on_its_own_image_alone(self) -> None:
        own, images = self.autoencoder, self.images()
        for function, given in ((own.encode, images), (own.decode, own.encode(images))):
            alone = torch.cat([function(row[None]) for row in given])
            self.close(alone, function(given), f"`{function.__name__}`: a row changes with the others")

    def test_clipping_keeps_images(self) -> None:
        """In [-1, 1] there is nothing to clip; elsewhere what a place becomes is its own matter."""
        own = self.autoencoder
        latents = own.encode(self.images())
        self.close(own.clip(latents), latents, "`clip` changes latents of images in [-1, 1]", atol=1e-4)
        large = 5 * latents
        whole = own.clip(large)
        self.check(whole.shape == large.shape, f"`clip` makes {tuple(whole.shape)} of {tuple(large.shape)}")
        part = own.clip(large[:, :, 1:3, 2:5])
        self.close(part, whole[:, :, 1:3, 2:5], "`clip` looks beyond each place of the latent", atol=1e-4)

    def test_moves_to_a_device(self) -> None:
        images = self.images()
        wanted = self.autoencoder.encode(images)
        for device in devices():
            moved = copy.deepcopy(self.autoencoder).to(device)
            latents = moved.encode(images.to(device))
            self.check(latents.device.type == device.type, f"on {device} it gives {latents.device}")
            near = torch.allclose(latents.cpu(), wanted, rtol=1e-2, atol=1e-2)
            self.check(near, f"on {device} it gives other latents")
            self.check(moved.decode(latents).device.type == device.type, f"on {device} it decodes elsewhere")

    def test_shapes_are_known_without_weights(self) -> None:
        """What training takes is found without memory, before any weights are read."""
        with torch.device("meta"):
            bare: Autoencoder = self.load()(self.config()).to("meta")
            images = torch.empty(2, 3, 4 * bare.stride, 4 * bare.stride)
        self.check(bare.channels == self.autoencoder.channels, "without weights it has other channels")
        calls: tuple[tuple[str, Callable[[], Tensor], tuple[int, ...]], ...] = (
            ("encode", lambda: bare.encode(images), bare.shape(images.shape)),
            (
                "decode",
                lambda: bare.decode(torch.empty(bare.shape(images.shape), device="meta")),
                tuple(images.shape),
            ),
        )
        for name, call, wanted in calls:
            found = tuple(call().shape)
            self.check(found == wanted, f"`{name}` without memory gives {found}, not {wanted}")

    def test_the_fingerprint_is_that_of_the_weights(self) -> None:
        own = copy.deepcopy(self.autoencoder)
        own.__dict__.pop("fingerprint", None)
        print_, state = own.fingerprint, {k: v.clone() for k, v in own.state_dict().items()}
        self.check(len(print_) >= 32, "its fingerprint is no hash; use hashlib.sha256")
        self.check(print_ == self.autoencoder.fingerprint, "a copy has another fingerprint")
        if state:
            name = next(iter(state))
            own.load_state_dict({**state, name: state[name] + 1})
            own.__dict__.pop("fingerprint", None)
            self.check(own.fingerprint != print_, f"its fingerprint is the same with another {name}")
        self.check(same(self.autoencoder.state_dict(), state), "its weights changed")
