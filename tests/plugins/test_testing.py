"""The conformance kit finds what it is for: each broken plugin fails the check of its fault, by name."""

import pickle

import numpy as np
import pytest
import torch
from torch import nn

from msdm_kit.core.conditioning import Conditioner, PluginConfig, Signal, Spec
from msdm_kit.core.solvers import ddim, solver
from msdm_kit.plugins.injectors.film import Film
from msdm_kit.plugins.mask_operations.flip_turn import FlipTurn
from msdm_kit.plugins.testing import (
    ConditionerConformance,
    InjectorConformance,
    MaskOperationConformance,
    SolverConformance,
)


def case(base, thing):
    """The checks of a plugin that is not registered."""

    class Case(base):
        plugin = "mine"

        def load(self):
            return thing

    return Case()


def checks(base):
    """The names of the checks that need no file and no registration."""
    return [n for n in dir(base) if n.startswith("test_") and "registered" not in n and "worker" not in n]


class Sound(Conditioner):
    """The share of pixels in nuclei."""

    reads = frozenset({"morphology"})

    def __init__(self, config, facts):
        super().__init__(config, facts)
        self.spec = Spec("vector", 4)
        self.linear = nn.Linear(1, 4)
        self.absent = nn.Parameter(torch.randn(4))

    def observe(self, sample):
        return {"share": torch.tensor([(sample.labels("nucleus") > 0).mean()], dtype=torch.float32)}

    def encode(self, batch):
        return Signal(self.linear(batch["share"]))

    def null(self, like):
        return Signal(self.absent.to(like.data).expand_as(like.data))


class Wide(Sound):
    def encode(self, batch):
        return Signal(self.linear(batch["share"]).repeat(1, 2))


class NotANumber(Sound):
    def encode(self, batch):
        return Signal(self.linear(batch["share"] / 0.0 * 0.0))


class Random(Sound):
    def observe(self, sample):
        return {"share": torch.rand(1)}


class Numpys(Sound):
    def observe(self, sample):
        return {"share": torch.tensor(np.random.rand(1), dtype=torch.float32)}  # noqa: NPY002


class Present(Sound):
    def null(self, like):
        return like


class Mean(Sound):
    def encode(self, batch):
        return Signal(self.linear(batch["share"] - batch["share"].mean()))


class Detached(Sound):
    def encode(self, batch):
        return Signal(self.linear(batch["share"]).detach())


class Elsewhere(Sound):
    def encode(self, batch):
        return Signal(self.linear(batch["share"]) + torch.ones(4, device="cpu").view(1, 4).repeat(3, 1))


class Words(Sound):
    def observe(self, sample):
        return {"share": torch.tensor([float(len(sample.metadata["assay"]))])}


class Pixels(Sound):
    reads = frozenset({"appearance"})

    def observe(self, sample):
        pixels = sample.image if sample.image is not None else np.zeros(1)
        return {"share": torch.tensor([pixels.mean()], dtype=torch.float32)}


class Careless(Sound):
    def observe(self, sample):
        return {"share": torch.tensor([(sample.masks["nucleus"] > 0).mean()], dtype=torch.float32)}


class Meddler(Sound):
    def observe(self, sample):
        seen = super().observe(sample)
        sample.masks["nucleus"][:] = 0
        return seen


class Forgetful(Sound):
    made = 0

    def __init__(self, config, facts):
        super().__init__(config, facts)
        Forgetful.made += 1
        self.number = Forgetful.made

    def encode(self, batch):
        return Signal(self.linear(batch["share"]) * self.number)


class Loose(Sound):
    class Config(PluginConfig):
        size: int = 3


def test_a_sound_conditioner_passes():
    for name in checks(ConditionerConformance):
        getattr(case(ConditionerConformance, Sound), name)()


@pytest.mark.parametrize(
    ("broken", "check", "says"),
    [
        (Wide, "shapes_are_those_of_the_spec", r"\(3, 8\); spec says \(3, 4\)"),
        (NotANumber, "shapes_are_those_of_the_spec", "not finite"),
        (Random, "is_deterministic", "must draw nothing"),
        (Numpys, "is_deterministic", "must draw nothing"),
        (Present, "absent_is_not_present", "equals a present one"),
        (Present, "absent_has_the_form_of_present", "differ"),
        (Mean, "rows_do_not_touch_each_other", "the others of its batch"),
        (Mean, "collates_odd_sizes", "collated"),
        (Detached, "gradients_reach_the_parameters", "linear.weight"),
        (Words, "reads_no_facet_that_it_does_not_declare", "metadata"),
        (Pixels, "needs_no_image_but_the_appearances", "sample.appearance"),
        (Careless, "what_is_missing_is_a_message", "raises KeyError"),
        (Meddler, "leaves_the_sample_alone", "copy what you change"),
        (Forgetful, "weights_and_facts_make_it_again", "config, facts and parameters"),
        (Loose, "settings_are_strict_and_described", "'size' has no description"),
    ],
)
def test_a_broken_conditioner_is_found(broken, check, says):
    with pytest.raises(AssertionError, match=f"conditioner 'mine': .*{says}"):
        getattr(case(ConditionerConformance, broken), f"test_{check}")()


def test_a_conditioner_on_another_device_is_found():
    with pytest.raises((AssertionError, RuntimeError), match=r"device|meta"):
        case(ConditionerConformance, Elsewhere).test_moves_to_a_device()


def test_a_conditioner_that_cannot_be_sent_is_found(tmp_path):
    class Local(Sound):
        def __init__(self, config, facts):
            super().__init__(config, facts)
            self.count = lambda: 1

    with pytest.raises((AttributeError, pickle.PicklingError, TypeError)):
        case(ConditionerConformance, Local).test_goes_to_a_worker(tmp_path)


class Peeks(Film):
    """Keeps h."""

    def prepare(self, signal):
        state = super().prepare(signal)
        return {k: v + getattr(self, "seen", 0) for k, v in state.items()}

    def inject(self, h, state, scale=None, shift=None):
        self.seen = float(h.detach().mean())
        return super().inject(h, state, scale, shift)


class Spends(Film):
    """Changes the state that is kept."""

    def inject(self, h, state, scale=None, shift=None):
        out = super().inject(h, state, scale, shift)
        for value in state.values():
            value.data.mul_(0.5)
        return out


class Untimed(Film):
    """Forgets the time step."""

    def inject(self, h, state, scale=None, shift=None):
        return super().inject(h, state)


class Mixes(Film):
    """Lets rows touch."""

    def prepare(self, signal):
        return super().prepare(Signal(signal.data - signal.data.mean(dim=0, keepdim=True)))


class Deaf(Film):
    """Does not inject."""

    def inject(self, h, state, scale=None, shift=None):
        return h


def test_a_sound_injector_passes():
    for name in checks(InjectorConformance):
        getattr(case(InjectorConformance, Film), name)()


@pytest.mark.parametrize(
    ("broken", "check", "says"),
    [
        (Peeks, "prepare_does_not_depend_on_x_t", "after an `inject`"),
        (Peeks, "what_is_prepared_once_serves_every_step", "from a fresh one"),
        (Spends, "what_is_prepared_once_serves_every_step", "kept state|changes the state"),
        (Untimed, "time_scales_and_shifts_at_a_norm", "time step changes nothing"),
        (Mixes, "rows_do_not_touch_each_other", "others of its batch"),
        (Deaf, "the_condition_and_h_matter", "condition changes nothing"),
        (Deaf, "gradients", "no gradient reaches"),
    ],
)
def test_a_broken_injector_is_found(broken, check, says):
    with pytest.raises(AssertionError, match=f"injector 'mine': .*({says})"):
        getattr(case(InjectorConformance, broken), f"test_{check}")()


@solver(steps=20, spacing="leading")
def twice(model, x, schedule, *, noise, eta=0.0):
    """Evaluates twice what it says it does."""
    model(x, 0)
    return ddim(model, x, schedule, noise=noise, eta=eta)


@solver(steps=20, spacing="leading")
def lucky(model, x, schedule, *, noise, eta=0.0):
    """Draws noise of its own."""
    return ddim(model, x, schedule, noise=noise, eta=eta) + 0.1 * torch.rand_like(x)


@solver(steps=20, spacing="leading")
def narrow(model, x, schedule, *, noise, eta=0.0):
    """Ends at the mean."""
    return model(x, len(schedule) - 1).x0


@pytest.mark.parametrize(
    ("broken", "check", "says"),
    [
        (twice, "evaluates_as_often_as_it_says", "21 times"),
        (lucky, "the_same_noise_gives_the_same_sample", "another sample"),
        (narrow, "samples_the_distribution", "deviation"),
    ],
)
def test_a_broken_solver_is_found(broken, check, says):
    with pytest.raises(AssertionError, match=f"solver 'mine': .*{says}"):
        getattr(case(SolverConformance, broken), f"test_{check}")()


class Renames(FlipTurn):
    """New labels of nowhere."""

    def apply(self, masks, rng, other=None):
        return {k: np.where(v > 0, v + 50, 0).astype(np.int32) for k, v in masks.items()}


class Tears(FlipTurn):
    """Moves cells and not their nuclei."""

    def apply(self, masks, rng, other=None):
        return {**masks, "cell": np.roll(masks["cell"], 15, 1)}


@pytest.mark.parametrize(
    ("broken", "check", "says"),
    [
        (Renames, "new_instances_say_what_they_were_made_of", "return Grown"),
        (Tears, "nuclei_stay_in_their_cells", "leave the cells"),
    ],
)
def test_a_broken_mask_operation_is_found(broken, check, says):
    with pytest.raises(AssertionError, match=f"mask_operation 'mine': .*{says}"):
        getattr(case(MaskOperationConformance, broken), f"test_{check}")()
