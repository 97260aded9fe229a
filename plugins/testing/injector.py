"""What every injector owes the engine, whoever wrote it: at each site and of each signal that it takes."""

import copy
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ...core.conditioning import Signal, Spec, SpecKind
from ...core.injection import Injector, Site, State
from .case import Configured, devices, randomise, same, seeded, valueless
from .fields import SIDE
from .pickling import arrived

SITES = (
    Site("n", "decoder", "norm", 8, 2, 4),
    Site("n1", "encoder", "norm", 8, 1, 2),
    Site("r", "bottleneck", "residual", 8, 4, 4),
    Site("e", "embedding", "embedding", 12),
    Site("i", "input", "input", 8),
    Site("l", "input", "input", 8, 4),
)
WIDTH = 6


@dataclass
class Given:
    """An injector at a site, and what it is given there."""

    injector: Injector
    kind: SpecKind
    site: Site
    signal: Signal
    h: Tensor
    time: tuple[Tensor, ...]

    @property
    def where(self) -> str:
        return f"{self.kind} at a {self.site.kind} site"

    def out(
        self, signal: Signal | None = None, h: Tensor | None = None, injector: Injector | None = None
    ) -> Tensor:
        """What comes out of both steps."""
        injector = injector or self.injector
        state = injector.prepare(signal or self.signal)
        return injector.inject(self.h if h is None else h, state, *self.time)


class InjectorConformance(Configured):
    """The checks of an injector, at a site of every kind in `site_kinds` and of every kind in `accepts`."""

    kind = "injector"
    base: ClassVar[type] = Injector

    def cases(self) -> Iterator[Given]:
        """An injector with random weights for each pair of a signal's kind and a site."""
        cls = self.load()
        for kind in sorted(cls.accepts):
            for site in SITES:
                if site.kind in cls.site_kinds:
                    with seeded():
                        injector = cls(self.config(), Spec(kind, WIDTH), site)
                    randomise(injector)
                    yield Given(injector.eval(), kind, site, *_given(kind, site))

    def every(self, check: Callable[[Given], None]) -> None:
        for case in self.cases():
            check(case)

    # --- what it declares -----------------------------------------------------------------------------------

    def test_declares_what_it_takes(self) -> None:
        cls = self.load()
        kinds, sites = {"map", "tokens", "vector"}, {"norm", "residual", "embedding", "input"}
        self.check(
            cls.accepts and cls.accepts <= kinds, f"`accepts` is {cls.accepts}; legal: {sorted(kinds)}"
        )
        self.check(
            cls.site_kinds and cls.site_kinds <= sites,
            f"`site_kinds` is {cls.site_kinds}; legal: {sorted(sites)}",
        )
        for name, wanted in (("prepare", ["signal"]), ("inject", ["h", "state", "scale", "shift"])):
            found = list(inspect.signature(getattr(cls, name)).parameters)[1:]
            self.check(found == wanted, f"`{name}` takes {found}; the engine gives {wanted}")

    # --- shapes ---------------------------------------------------------------------------------------------

    def test_shapes_and_states(self) -> None:
        def check(c: Given) -> None:
            before = c.h.clone()
            state = c.injector.prepare(c.signal)
            ok = all(isinstance(v, Tensor) and len(v) == len(c.h) for v in state.values())
            self.check(ok, f"{c.where}: `prepare` gives tensors with the batch first")
            out = c.injector.inject(c.h, state, *c.time)
            self.check(out.shape == c.h.shape, f"{c.where}: h {tuple(c.h.shape)} became {tuple(out.shape)}")
            self.check(out.isfinite().all(), f"{c.where}: its output is not finite")
            self.check(torch.equal(c.h, before), f"{c.where}: `inject` changes h in place")
            bare = c.injector.inject(c.h, state)
            self.check(bare.shape == c.h.shape, f"{c.where}: without time it gives {tuple(bare.shape)}")

        self.every(check)

    # --- prepare once, inject at every step -----------------------------------------------------------------

    def test_what_is_prepared_once_serves_every_step(self) -> None:
        """The state of the first step gives at each later one, bit for bit, what a state of its own would."""

        def check(c: Given) -> None:
            kept = c.injector.prepare(c.signal)
            first = _copy(kept)
            for step in range(3):
                h = c.h.roll(step, 0) * (1 + step)
                cached = c.injector.inject(h, kept, *c.time)
                fresh = c.injector.inject(h, c.injector.prepare(c.signal), *c.time)
                self.check(
                    torch.equal(cached, fresh), f"{c.where}: with a kept state it differs from a fresh one"
                )
            self.check(same(kept, first), f"{c.where}: `inject` changes the state that it is given")
            with torch.no_grad():
                untracked = c.injector.inject(c.h, c.injector.prepare(c.signal), *c.time)
            self.close(untracked, c.out(), f"{c.where}: sampling differs from training")

        self.every(check)

    def test_prepare_does_not_depend_on_x_t(self) -> None:
        def check(c: Given) -> None:
            before = _copy(c.injector.prepare(c.signal))
            for scale in (0.0, 1.0, 7.0):
                c.injector.inject(c.h * scale, c.injector.prepare(c.signal), *c.time)
                now = c.injector.prepare(c.signal)
                self.check(same(now, before), f"{c.where}: `prepare` gives something else after an `inject`")

        self.every(check)

    def test_one_row_stands_for_all(self) -> None:
        """The absent condition is prepared once for all rows."""

        def check(c: Given) -> None:
            one = Signal(c.signal.data[:1], None if c.signal.mask is None else c.signal.mask[:1])
            full = Signal(one.data.expand_as(c.signal.data), c.signal.mask)
            self.close(c.out(one), c.out(full), f"{c.where}: a state of one row must broadcast over h")

        self.every(check)

    # --- what matters, and what does not --------------------------------------------------------------------

    def test_the_condition_and_h_matter(self) -> None:
        def check(c: Given) -> None:
            out = c.out()
            other = Signal(c.signal.data.flip(0), c.signal.mask)
            self.check(not torch.allclose(c.out(other), out), f"{c.where}: the condition changes nothing")
            self.check(not torch.allclose(c.out(h=c.h.flip(0)), out), f"{c.where}: h changes nothing")

        self.every(check)

    def test_time_scales_and_shifts_at_a_norm(self) -> None:
        """y (1 + scale) + shift after the condition, then SiLU: where scale is -1 only the shift is left."""

        def check(c: Given) -> None:
            if c.site.kind != "norm":
                return
            state, (scale, shift) = c.injector.prepare(c.signal), c.time
            zero = torch.zeros_like(scale)
            plain = c.injector.inject(c.h, state)
            message = f"{c.where}: a scale and shift of 0 are not as none"
            self.close(c.injector.inject(c.h, state, zero, zero), plain, message)
            moved = c.injector.inject(c.h, state, scale, shift)
            self.check(not torch.allclose(moved, plain), f"{c.where}: the time step changes nothing")
            left = c.injector.inject(c.h, state, zero - 1, shift)
            message = (
                f"{c.where}: the order is norm, modulation, time, SiLU; see core.norm.norm_modulate_silu"
            )
            self.close(left, nn.functional.silu(shift).expand_as(left), message)

        self.every(check)

    def test_rows_do_not_touch_each_other(self) -> None:
        def check(c: Given) -> None:
            out = c.out()
            for i in range(2):
                r = slice(i, i + 1)
                part = Signal(c.signal.data[r], None if c.signal.mask is None else c.signal.mask[r])
                alone = c.injector.inject(c.h[r], c.injector.prepare(part), *(t[r] for t in c.time))
                self.close(alone, out[r], f"{c.where}: a row changes with the others of its batch")

        self.every(check)

    def test_padding_does_not_matter(self) -> None:
        def check(c: Given) -> None:
            if c.signal.mask is None:
                return
            data = c.signal.data.masked_fill(~c.signal.mask[..., None], 1e3)
            self.close(
                c.out(Signal(data, c.signal.mask)), c.out(), f"{c.where}: tokens that are masked matter"
            )

        self.every(check)

    # --- gradients, precision, devices, copies --------------------------------------------------------------

    def test_gradients(self) -> None:
        def check(c: Given) -> None:
            c.signal.data.requires_grad_()
            c.h.requires_grad_()
            c.out().square().sum().backward()  # type: ignore[no-untyped-call]
            for name, p in (*c.injector.named_parameters(), ("the condition", c.signal.data), ("h", c.h)):
                reached = p.grad is not None and bool(p.grad.abs().sum() > 0)
                self.check(reached, f"{c.where}: no gradient reaches {name}")

        self.every(check)

    def test_bf16_and_layout(self) -> None:
        def check(c: Given) -> None:
            exact = c.out()
            if c.h.ndim == 4:
                c.h = c.h.to(memory_format=torch.channels_last)
                self.close(c.out(), exact, f"{c.where}: in channels_last it differs")
            with torch.autocast("cpu", torch.bfloat16):
                out = c.out()
            scale = exact.abs().max()
            message = f"{c.where}: is far off in bf16"
            self.close(out.float() / scale, exact / scale, message, rtol=0, atol=0.05)

        self.every(check)

    def test_moves_to_a_device(self) -> None:
        def check(c: Given) -> None:
            for device in (*devices(), torch.device("meta")):
                moved = copy.deepcopy(c.injector).to(device)
                mask = None if c.signal.mask is None else c.signal.mask.to(device)
                try:
                    state = moved.prepare(Signal(c.signal.data.to(device), mask))
                    out = moved.inject(c.h.to(device), state, *(t.to(device) for t in c.time))
                except (NotImplementedError, RuntimeError) as error:
                    if valueless(error, device):
                        continue
                    raise
                self.check(out.device.type == device.type, f"{c.where}: on {device} it gives {out.device}")

        self.every(check)

    def test_saved_and_copied(self) -> None:
        def check(c: Given) -> None:
            twin = type(c.injector)(c.injector.config, c.injector.spec, c.injector.site).eval()
            twin.load_state_dict(arrived(c.injector.state_dict()))
            for other, how in ((twin, "saving and loading"), (copy.deepcopy(c.injector), "copying")):
                self.check(torch.equal(c.out(injector=other), c.out()), f"{c.where}: is another after {how}")

        self.every(check)


def _given(kind: SpecKind, site: Site, batch: int = 2) -> tuple[Signal, Tensor, tuple[Tensor, ...]]:
    g = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=g)

    data = {"map": (WIDTH, SIDE, SIDE), "tokens": (3, WIDTH), "vector": (WIDTH,)}[kind]
    mask = torch.tensor([[True, True, False]] * batch) if kind == "tokens" else None
    side = () if site.kind == "embedding" else (SIDE // site.stride,) * 2
    signal, h = Signal(normal(batch, *data), mask), normal(batch, site.channels, *side)
    time = (normal(batch, site.channels, 1, 1), normal(batch, site.channels, 1, 1))
    return signal, h, time if site.kind == "norm" else ()


def _copy(state: State) -> dict[str, Any]:
    return {k: v.detach().clone() for k, v in state.items()}
