"""What every backbone owes the engine, whoever wrote it."""

import copy
from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor

from ...core.backbone import Backbone, Inject
from .case import Configured, devices, randomise, same, seeded


def plain(site: str, h: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
    """What stands where no injector does."""
    return h


def run(backbone: Backbone, x: Tensor, t: Tensor, inject: Inject = plain) -> Tensor:
    """Both halves."""
    return backbone.decode(backbone.encode(x, t, inject), inject)


class BackboneConformance(Configured):
    """The checks of a backbone: of images, with a variance, and of latents. `settings` make it small."""

    kind = "backbone"
    base: ClassVar[type] = Backbone

    def build(self, channels: int, out_channels: int) -> Backbone:
        """The backbone with random weights."""
        with seeded():
            backbone: Backbone = self.load()(self.config(), channels, out_channels)
        randomise(backbone)
        return backbone.eval()

    def each(self) -> Iterator[tuple[Backbone, Tensor, Tensor]]:
        for channels, out_channels in ((3, 3), (3, 6), (4, 4)):
            backbone = self.build(channels, out_channels)
            side = 4 * backbone.multiple
            g = torch.Generator().manual_seed(1)
            yield backbone, torch.randn(2, channels, side, 2 * side, generator=g), torch.tensor([3, 900])

    def test_shapes(self) -> None:
        for backbone, x, t in self.each():
            out, wanted = run(backbone, x, t), (2, backbone.out_channels, *x.shape[2:])
            self.check(out.shape == wanted, f"{tuple(x.shape)} became {tuple(out.shape)}, not {wanted}")
            self.check(out.isfinite().all(), "its prediction is not finite")
            self.check(torch.equal(run(backbone, x, t), out), "its prediction is another the second time")
            self.check(not torch.allclose(run(backbone, x, t.flip(0)), out), "the time step changes nothing")
            self.check(not torch.allclose(run(backbone, x.flip(0), t), out), "x_t changes nothing")

    def test_every_site_is_asked_once_with_what_it_declares(self) -> None:
        for backbone, x, t in self.each():
            by, asked = {s.name: s for s in backbone.sites}, list[str]()
            self.check(len(by) == len(backbone.sites), "two sites have one name")
            backbone.release([s.name for s in backbone.sites if s.kind == "norm"])

            def inject(
                site: str,
                h: Tensor,
                scale: Tensor | None = None,
                shift: Tensor | None = None,
                *,
                by: dict = by,  # type: ignore[type-arg]
                asked: list[str] = asked,
                size: torch.Size = x.shape[2:],
            ) -> Tensor:
                asked.append(site)
                self.check(site in by, f"it asks at {site!r}, which `sites` does not list")
                s = by[site]
                side = () if s.kind == "embedding" else (size[0] // s.stride, size[1] // s.stride)
                wanted = (2, s.channels, *side)
                self.check(h.shape == wanted, f"site {site!r}: h is {tuple(h.shape)}; it declares {wanted}")
                fits = s.kind != "norm" or s.channels % s.groups == 0
                self.check(fits, f"site {site!r}: {s.channels} channels do not divide by {s.groups} groups")
                return h

            features = backbone.encode(x, t, inject)
            late = [s for s in asked if not by[s].sees_encoder]
            self.check(not late, f"`encode` asks at {late}, whose regions are not the encoder's")
            done = len(asked)
            backbone.decode(features, inject)
            early = [s for s in asked[done:] if by[s].sees_encoder]
            self.check(not early, f"`decode` asks at {early}, whose regions are the encoder's")
            self.check(sorted(asked) == sorted(by), "not every site is asked once")

    def test_released_norms_are_gone(self) -> None:
        for backbone, _, _ in self.each():
            norms = [s for s in backbone.sites if s.kind == "norm"]
            before = sum(p.numel() for p in backbone.parameters())
            backbone.release(s.name for s in norms)
            gone, wanted = (
                before - sum(p.numel() for p in backbone.parameters()),
                2 * sum(s.channels for s in norms),
            )
            self.check(gone == wanted, f"`release` of all norms drops {gone} parameters, not their {wanted}")

    def test_features_serve_several_branches(self) -> None:
        for backbone, x, t in self.each():
            features = backbone.encode(x, t, plain)
            a, b = (backbone.decode(features, plain) for _ in range(2))
            self.check(torch.equal(a, b), "`decode` changes the features that it is given")

    def test_rows_do_not_touch_each_other(self) -> None:
        for backbone, x, t in self.each():
            out = run(backbone, x, t)
            for i in range(2):
                alone = run(backbone, x[[i]], t[[i]])
                self.close(alone[0], out[i], "a row changes with the others of its batch")

    def test_gradients_and_checkpointing(self) -> None:
        for backbone, x, t in self.each():
            gradients = []
            for on in (False, True):
                backbone.checkpointing = on
                backbone.zero_grad(set_to_none=True)
                run(backbone, x, t).square().mean().backward()  # type: ignore[no-untyped-call]
                found = {n: p.grad for n, p in backbone.named_parameters() if p.grad is not None}
                dead = [n for n, p in backbone.named_parameters() if n not in found or not found[n].any()]
                self.check(not dead, f"no gradient reaches {', '.join(dead)}")
                gradients.append({n: g.clone() for n, g in found.items()})
            self.check(same(*gradients), "gradients are others with checkpointing")

    def test_bf16(self) -> None:
        for backbone, x, t in self.each():
            out = run(backbone, x, t)
            with torch.autocast("cpu", torch.bfloat16):
                rough = run(backbone, x, t).float()
            scale = out.abs().max()
            self.close(rough / scale, out / scale, "is far off in bf16", rtol=0, atol=0.1)

    def test_moves_to_a_device(self) -> None:
        for backbone, x, t in self.each():
            for device in (*devices(), torch.device("meta")):
                out = run(copy.deepcopy(backbone).to(device), x.to(device), t.to(device))
                self.check(out.device.type == device.type, f"on {device} it gives {out.device}")

    def test_saved_and_copied(self) -> None:
        for backbone, x, t in self.each():
            out = run(backbone, x, t)
            twin = type(backbone)(backbone.config, backbone.in_channels, backbone.out_channels).eval()
            twin.load_state_dict(backbone.state_dict())
            for other, how in ((twin, "saving and loading"), (copy.deepcopy(backbone), "copying")):
                self.check(torch.equal(run(other, x, t), out), f"is another after {how}")
