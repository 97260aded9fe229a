"""What every conditioner owes the engine, whoever wrote it."""

import copy
import inspect
import json
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ...core.conditioning import Conditioner, Observation, Signal, at
from ...core.errors import MsdmError
from ...core.loader import TrainingStream
from ...core.recipe import DataSection
from ...core.sample import FACETS, Appearance, ColourStatistics, Sample
from .case import Configured, built, devices, same, seeded, valueless
from .fields import SIDE, toy_sample
from .pickling import arrived


class ConditionerConformance(Configured):
    """The checks of a conditioner.

    Fields to observe come from `samples`: cells and nuclei with the columns ``assay`` and ``indication``.
    Override it where the plugin needs other masks or columns; all fields must be of one size, and at least
    three.

    Examples
    --------
    A whole test file::

        from msdm_kit.plugins.testing import ConditionerConformance

        class TestStain(ConditionerConformance):
            plugin = "stain"
    """

    kind = "conditioner"
    base: ClassVar[type] = Conditioner

    def samples(self, size: tuple[int, int] = (SIDE, SIDE)) -> list[Sample]:
        """Three fields of one size (height, width) that the plugin can observe."""
        return [toy_sample(i, size, cells=i + 1) for i in range(3)]

    def build(self) -> Conditioner:
        """The conditioner as a run builds it, in evaluation mode."""
        config, cls = self.config(), self.load()
        facts = cls.fit(config, [dict(s.metadata) for s in self.samples()])
        facts = json.loads(json.dumps(facts))
        with seeded():
            conditioner: Conditioner = cls(config, facts)
        return conditioner.eval()

    @property
    def conditioner(self) -> Conditioner:
        return built(self)  # type: ignore[no-any-return]

    def observe(self, samples: Sequence[Sample] | None = None, of: Conditioner | None = None) -> Observation:
        """A batch of observations."""
        conditioner = of or self.conditioner
        return conditioner.collate(
            [conditioner.observe(s) for s in (self.samples() if samples is None else samples)]
        )

    def signal(self, samples: Sequence[Sample] | None = None) -> Signal:
        return self.conditioner.encode(self.observe(samples))

    # --- what it declares -----------------------------------------------------------------------------------

    def test_declares_what_it_is(self) -> None:
        conditioner = self.conditioner
        self.check(conditioner.reads, f"`reads` is empty; legal: a frozenset of {', '.join(FACETS)}")
        unknown = sorted(set(conditioner.reads) - set(FACETS))
        self.check(not unknown, f"`reads` has {unknown}; legal: {', '.join(FACETS)}")
        legal = ("map", "tokens", "vector")
        self.check(conditioner.spec.kind in legal, f"spec.kind is {conditioner.spec.kind!r}; legal: {legal}")
        self.check(conditioner.spec.width >= 1, f"spec.width is {conditioner.spec.width}; give at least 1")
        cls = self.load()
        for name, wanted in (("observe", "sample"), ("encode", "batch"), ("null", "like")):
            found = list(inspect.signature(getattr(cls, name)).parameters)
            self.check(
                found == ["self", wanted], f"`{name}` takes {found}; the engine gives (self, {wanted})"
            )

    def test_reads_no_facet_that_it_does_not_declare(self) -> None:
        first, second = self.samples()[:2]
        look = replace(second, look=second.appearance).appearance
        other = {
            "morphology": replace(first, masks=second.masks, look=first.appearance),
            "appearance": replace(first, look=look),
            "metadata": replace(first, metadata=second.metadata),
        }
        seen = self.observe([first])
        for facet in set(FACETS) - self.conditioner.reads:
            self.check(
                same(self.observe([other[facet]]), seen),
                f"its observation changes with the {facet}, which `reads` does not list",
            )

    # --- shapes ---------------------------------------------------------------------------------------------

    def test_shapes_are_those_of_the_spec(self) -> None:
        self._shaped(self.signal(), 3, (SIDE, SIDE))

    def test_collates_odd_sizes(self) -> None:
        """Fields with many instances, one and none in one batch, oblong and of odd sides."""
        samples = self.samples((17, 23))
        samples.append(replace(samples[0], masks={k: v * 0 for k, v in samples[0].masks.items()}))
        signal = self.signal(samples)
        self._shaped(signal, 4, (17, 23))
        for i, sample in enumerate(samples):
            (alone,) = counting(self.signal([sample]))
            self.close(counting(signal)[i], alone, "a row differs with what it is collated with")

    def _shaped(self, signal: Signal, batch: int, size: tuple[int, int]) -> None:
        spec, shape = self.conditioner.spec, tuple(signal.data.shape)
        wanted = {"map": (batch, spec.width, *size), "vector": (batch, spec.width)}
        if spec.kind == "tokens":
            ok = len(shape) == 3 and (shape[0], shape[2]) == (batch, spec.width)
            self.check(ok, f"tokens have the shape {shape}; spec says ({batch}, L, {spec.width})")
        else:
            self.check(
                shape == wanted[spec.kind], f"its signal has the shape {shape}; spec says {wanted[spec.kind]}"
            )
        self.check(signal.data.is_floating_point(), f"its signal is {signal.data.dtype}; give floating point")
        self.check(signal.data.isfinite().all(), "its signal is not finite")
        if signal.mask is not None:
            mask = signal.mask
            self.check(spec.kind == "tokens", f"a {spec.kind} has no mask")
            self.check(
                mask.shape == signal.data.shape[:2], f"its mask is {tuple(mask.shape)}; give {shape[:2]}"
            )
            self.check(mask.dtype == torch.bool, f"its mask is {mask.dtype}; give bool")
            self.check(mask.any(dim=1).all(), "a row has no token that counts; at least one must")

    # --- observe --------------------------------------------------------------------------------------------

    def test_is_deterministic(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            np.random.seed(0)  # noqa: NPY002  # what a plugin must not draw from
            a = self.observe()
            torch.manual_seed(1)
            np.random.seed(1)  # noqa: NPY002
            b = self.observe()
        self.check(same(a, b), "`observe` gives something else the second time; it must draw nothing")
        first, second = (self.conditioner.encode(a).data for _ in range(2))
        self.check(torch.equal(first, second), "`encode` gives something else the second time")

    def test_observes_on_the_cpu_without_gradients(self) -> None:
        for key, value in self.observe().items():
            self.check(value.device.type == "cpu", f"observation {key!r} is on {value.device}; give the CPU")
            self.check(
                not value.requires_grad, f"observation {key!r} has gradients; parameters are for encode"
            )

    def test_leaves_the_sample_alone(self) -> None:
        for sample in self.samples():
            before = copy.deepcopy(sample)
            self.observe([sample])
            kept = all(np.array_equal(sample.masks[k], before.masks[k]) for k in before.masks)
            kept &= sample.masks.keys() == before.masks.keys() and sample.metadata == before.metadata
            kept &= np.array_equal(_pixels(sample), _pixels(before))
            self.check(kept, "`observe` changes the sample that it is given; copy what you change")

    def test_needs_no_image_but_the_appearances(self) -> None:
        first = self.samples()[0]
        unpainted = replace(first, image=None, look=first.appearance)
        self.check(
            same(self.observe([unpainted]), self.observe([first])),
            "an unpainted field is observed otherwise; read sample.appearance, not sample.image",
        )

    def test_takes_its_colours_from_a_field_of_another_size(self) -> None:
        first, other = self.samples()[0], self.samples((19, 26))[1]
        self._shaped(self.signal([replace(first, image=None, look=other.appearance)]), 1, (SIDE, SIDE))

    def test_a_blank_field_is_finite(self) -> None:
        first = self.samples()[0]
        masks = {k: v * 0 for k, v in first.masks.items()}
        for level in (-1, 0, 1):
            blank = np.full((3, SIDE, SIDE), level, np.float32)
            self._shaped(self.signal([replace(first, masks=masks, image=blank, look=None)]), 1, (SIDE, SIDE))

    def test_what_is_missing_is_a_message(self) -> None:
        first = self.samples()[0]
        colours = {k: ColourStatistics((0.1, 0.2, 0.3), (0.1, 0.1, 0.1)) for k in first.masks}
        poor = {
            "no mask": replace(first, masks={}, look=first.appearance),
            "no metadata": replace(first, metadata={"id": first.id}),
            "no image": replace(first, image=None, look=None),
            "colours given by hand": replace(first, image=None, look=Appearance(statistics=colours)),
        }
        for name, sample in poor.items():
            try:
                self.observe([sample])
            except MsdmError as error:
                self.check("\n" not in str(error), f"its message on a sample with {name} is more than a line")
            except Exception as error:
                raise AssertionError(
                    f"{self.kind} {self.plugin!r}: a sample with {name} raises {type(error).__name__}; raise "
                    f"MsdmError with what is missing"
                ) from error

    # --- the absent condition -------------------------------------------------------------------------------

    def test_absent_is_not_present(self) -> None:
        empty = [replace(s, masks={k: v * 0 for k, v in s.masks.items()}) for s in self.samples()[:1]]
        for samples in (self.samples(), empty):
            signal = self.signal(samples)
            for present, absent in zip(
                counting(signal), counting(self.conditioner.null(signal)), strict=True
            ):
                told = present.shape != absent.shape or not torch.allclose(present, absent)
                self.check(
                    told, "the absent condition equals a present one; the network cannot tell them apart"
                )

    def test_absent_has_the_form_of_present(self) -> None:
        signal = self.signal()
        null = self.conditioner.null(signal)
        self._shaped(null, len(signal.data), (SIDE, SIDE))
        self.check(null.data.shape == signal.data.shape, "null(like) has another shape than `like`")
        self.check(null.data.dtype == signal.data.dtype, "null(like) has another dtype than `like`")
        self.check(
            (null.mask is None) == (signal.mask is None), "null(like) has a mask where `like` has none"
        )
        first = counting(null)[0]
        self.check(first.numel() > 0, "the absent condition has no token that counts")
        self.check(all(torch.equal(r, first) for r in counting(null)), "rows of the absent condition differ")
        one = self.conditioner.null(at(signal, slice(0, 1)))
        self.check(torch.equal(counting(one)[0], first), "the absent condition of one row is another")
        moved = self.conditioner.null(replace(signal, data=signal.data * 2 + 1))
        self.check(torch.equal(moved.data, null.data), "null(like) depends on the values of `like`")

    # --- encode ---------------------------------------------------------------------------------------------

    def test_rows_do_not_touch_each_other(self) -> None:
        together = counting(self.signal())
        for i, sample in enumerate(self.samples()):
            (alone,) = counting(self.signal([sample]))
            self.close(together[i], alone, "a row changes with the others of its batch")

    def test_gradients_reach_the_parameters(self) -> None:
        conditioner = copy.deepcopy(self.conditioner)
        signal = conditioner.encode(self.observe())
        null = conditioner.null(signal)
        g = torch.Generator().manual_seed(0)
        loss = sum((d * torch.randn(d.shape, generator=g)).sum() for d in (signal.data, null.data))
        assert isinstance(loss, Tensor)
        parameters = {n: p for n, p in conditioner.named_parameters() if p.requires_grad}
        self.check(bool(parameters) == loss.requires_grad, "gradients do not follow its parameters")
        if parameters:
            loss.backward()  # type: ignore[no-untyped-call]
            dead = [n for n, p in parameters.items() if p.grad is None]
            self.check(not dead, f"no gradient reaches {', '.join(dead)}; use them in encode or null")
            moved = any(p.grad is not None and p.grad.abs().sum() > 0 for p in parameters.values())
            self.check(moved, "all gradients are zero")

    def test_bf16(self) -> None:
        observed = self.observe()
        exact = self.conditioner.encode(observed)
        with torch.autocast("cpu", torch.bfloat16):
            signal = self.conditioner.encode(observed)
            null = self.conditioner.null(signal)
        self.check(null.data.dtype == signal.data.dtype, "null(like) has another dtype than `like` in bf16")
        self.close(signal.data.float(), exact.data.float(), "is far off in bf16", rtol=0.1, atol=0.1)

    def test_moves_to_a_device(self) -> None:
        observed, shape = self.observe(), self.signal().data.shape
        for device in (*devices(), torch.device("meta")):
            moved = copy.deepcopy(self.conditioner).to(device)
            try:
                signal = moved.encode({k: v.to(device) for k, v in observed.items()})
                null = moved.null(signal)
            except (NotImplementedError, RuntimeError) as error:
                if valueless(error, device):
                    continue
                raise
            for found in (signal, null):
                self.check(
                    found.data.device.type == device.type,
                    f"its signal is on {found.data.device}, and the batch on {device}",
                )
                self.check(found.data.shape == shape, f"its signal has another shape on {device}")

    # --- kept, copied, sent ---------------------------------------------------------------------------------

    def test_weights_and_facts_make_it_again(self) -> None:
        conditioner = self.conditioner
        facts = json.loads(json.dumps(dict(conditioner.facts)))
        twin: Any = type(conditioner)(conditioner.config, facts).eval()
        twin.load_state_dict({k: v.clone() for k, v in conditioner.state_dict().items()})
        self.check(twin.spec == conditioner.spec, "its spec is another after loading")
        a, b = (c.encode(self.observe(of=c)) for c in (conditioner, twin))
        message = "is another after saving and loading; all that it knows is in config, facts and parameters"
        self.check(torch.equal(a.data, b.data), message)
        self.check(torch.equal(twin.null(b).data, conditioner.null(a).data), f"when absent, {message}")

    def test_goes_to_a_worker(self, tmp_path: Any) -> None:
        """A worker that is not forked gets the conditioner pickled, without its weights."""
        dataset: Any = SimpleNamespace(ids=["a"], sizes=[(SIDE, SIDE)], root=tmp_path)
        stream = TrainingStream(dataset, {"x": self.conditioner}, DataSection(crop=8), 0)
        sent = arrived(stream).conditioners["x"]
        self.check(
            same(self.observe(of=sent), self.observe()), "observes something else in a loader's worker"
        )

    def test_can_be_copied(self) -> None:
        twin = copy.deepcopy(self.conditioner)
        a, b = twin.encode(self.observe(of=twin)).data, self.signal().data
        self.check(torch.equal(a, b), "a copy of it encodes something else")


def counting(signal: Signal) -> list[Tensor]:
    """Row by row what counts: tokens without their padding."""
    if signal.mask is None:
        return list(signal.data)
    return [d[m] for d, m in zip(signal.data, signal.mask, strict=True)]


def _pixels(sample: Sample) -> Any:
    return np.zeros(0) if sample.image is None else sample.image
