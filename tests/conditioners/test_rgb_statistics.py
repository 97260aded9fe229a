import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from msdm_kit.conditioners.rgb_statistics import RGBStatistics
from msdm_kit.core.conditioning import Signal, Spec
from msdm_kit.core.errors import MsdmError
from msdm_kit.core.sample import Appearance, ColourStatistics, Sample, recombine


def make(*masks: str) -> RGBStatistics:
    return RGBStatistics(RGBStatistics.Config(masks=masks or ("cell", "nucleus")), {})


def field(seed: int, id: str) -> Sample:
    rng = np.random.default_rng(seed)
    cell, nucleus = np.zeros((12, 10), np.int32), np.zeros((12, 10), np.int32)
    cell[1 + seed : 8, 1:6], cell[9:12, 6:10] = 1, 2
    nucleus[3 + seed : 6, 2:5] = 1
    image = rng.uniform(-1, 1, (3, 12, 10)).astype(np.float32)
    return Sample(id=id, masks={"cell": cell, "nucleus": nucleus}, image=image)


def signal_of(conditioner: RGBStatistics, *samples: Sample) -> Signal:
    return conditioner.encode(conditioner.collate([conditioner.observe(s) for s in samples]))


def test_two_pixels_by_hand() -> None:
    image = np.zeros((3, 1, 3), np.float32)
    image[:, 0, 0], image[:, 0, 1], image[:, 0, 2] = (1, 0, -1), (0, 0, -0.5), (0.3, 0.3, 0.3)
    sample = Sample(id="s", masks={"cell": np.array([[1, 2, 0]], np.int32)}, image=image)
    data = signal_of(make("cell"), sample).data[0]
    expected = torch.tensor([0.5, 0, -0.75, 0.5, 0, 0.25])
    torch.testing.assert_close(data[:, 0, 0], expected)
    torch.testing.assert_close(data[:, 0, 1], expected)
    assert not data[:, 0, 2].any()


def test_means_and_deviations_of_each_kind() -> None:
    sample = field(0, "s")
    data = signal_of(make(), sample).data[0].numpy()
    assert sample.image is not None
    for i, kind in enumerate(("cell", "nucleus")):
        inside = sample.masks[kind] > 0
        pixels = sample.image[:, inside]
        expected = np.concatenate([pixels.mean(1), pixels.std(1)])
        np.testing.assert_allclose(
            data[6 * i : 6 * i + 6, inside], np.tile(expected[:, None], inside.sum()), atol=1e-6
        )
        assert not data[6 * i : 6 * i + 6, ~inside].any()


def test_the_nucleus_belongs_to_the_foreground_of_its_cell() -> None:
    sample = field(0, "s")
    painted = signal_of(make("cell"), sample).data[0, 0]
    assert painted[4, 3] == painted[2, 1] != 0


def test_spec_is_the_form_of_the_signal() -> None:
    conditioner = make()
    assert conditioner.spec == Spec("map", 12)
    assert signal_of(conditioner, field(0, "a"), field(1, "b")).data.shape == (2, 12, 12, 10)
    assert conditioner.reads == {"morphology", "appearance"}


def test_colours_of_another_sample_on_this_ones_foreground() -> None:
    a, b = field(0, "a"), field(1, "b")
    mixed = signal_of(make(), recombine(a, appearance=b)).data[0]
    own = signal_of(make(), b).data[0]
    inside = torch.from_numpy(a.masks["cell"] > 0)
    assert torch.equal(
        mixed[:6, inside].unique(dim=1), own[:6, torch.from_numpy(b.masks["cell"] > 0)].unique(dim=1)
    )
    assert not mixed[:6, ~inside].any()


def test_recombined_with_itself_nothing_changes() -> None:
    a = field(0, "a")
    assert torch.equal(signal_of(make(), recombine(a, appearance=a)).data, signal_of(make(), a).data)


def test_colours_given_by_hand() -> None:
    given = ColourStatistics(mean=(0.5, -0.25, 0.125), std=(0.5, 0.25, 0.75))
    mixed = recombine(field(0, "a"), appearance=Appearance(statistics={"cell": given, "nucleus": given}))
    data = signal_of(make(), mixed).data[0]
    np.testing.assert_array_equal(data[:6, 2, 2], [0.5, -0.25, 0.125, 0.5, 0.25, 0.75])
    np.testing.assert_array_equal(data[6:, 4, 3], data[:6, 2, 2])


def test_empty_foreground_is_zero_and_needs_no_colour() -> None:
    a = field(0, "a")
    empty = replace(a, masks={k: np.zeros_like(m) for k, m in a.masks.items()})
    assert not signal_of(make(), empty).data.any()
    assert not signal_of(make(), recombine(empty, appearance=Appearance())).data.any()


def test_nothing_to_measure_a_colour_on() -> None:
    a, b = field(0, "a"), field(1, "b")
    bare = replace(b, masks={k: np.zeros_like(m) for k, m in b.masks.items()})
    with pytest.raises(MsdmError, match=r"'a' has 'cell' foreground.*from 'b'.*has none") as error:
        make().observe(recombine(a, appearance=bare))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("mean", "std", "word"),
    [
        ((200, 150, 180), (0.1, 0.1, 0.1), "mean"),
        ((0, 0, 0), (0.1, -0.1, 0.1), "std"),
        ((0, 0, np.nan), (0, 0, 0), "mean"),
    ],
)
def test_colours_off_the_scale_are_refused(
    mean: tuple[float, float, float], std: tuple[float, float, float], word: str
) -> None:
    given = Appearance(statistics={"cell": ColourStatistics(mean=mean, std=std)})
    with pytest.raises(MsdmError, match=rf"colour {word} of 'cell'.*legal: \["):
        make("cell").observe(recombine(field(0, "a"), appearance=given))


def test_null_is_none_of_the_present() -> None:
    conditioner = make()
    white = field(0, "w")
    black = replace(white, image=np.full((3, 12, 10), -1, np.float32))
    signal = signal_of(conditioner, white, black)
    null = conditioner.null(signal)
    assert null.data.shape == signal.data.shape
    assert (null.data != signal.data).all()


def test_deterministic_also_after_pickling() -> None:
    conditioner = make()
    again = pickle.loads(pickle.dumps(conditioner))
    sample = field(0, "a")
    assert torch.equal(signal_of(conditioner, sample).data, signal_of(again, sample).data)
