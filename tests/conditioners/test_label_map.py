import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydantic import ValidationError

from msdm_kit.conditioners.label_map import LabelMap
from msdm_kit.core.augment import pad_to_multiple
from msdm_kit.core.conditioning import Signal, Spec
from msdm_kit.core.sample import Sample, instance_edges

fields = arrays(np.int32, st.tuples(st.integers(1, 8), st.integers(1, 8)), elements=st.integers(0, 3))


def make(**settings: object) -> LabelMap:
    return LabelMap(LabelMap.Config(**settings), {})


def sample(cell: object, nucleus: object) -> Sample:
    return Sample(id="s", masks={"cell": np.array(cell, np.int32), "nucleus": np.array(nucleus, np.int32)})


def signal_of(conditioner: LabelMap, *samples: Sample) -> Signal:
    return conditioner.encode(conditioner.collate([conditioner.observe(s) for s in samples]))


def test_by_hand() -> None:
    s = sample([[1, 1, 1, 2, 0, 0]], [[0, 5, 0, 0, 0, 0]])
    data = signal_of(make(), s).data[0, :, 0]
    assert data.dtype == torch.float32
    np.testing.assert_array_equal(
        data,
        [
            [0, 0, 0, 0, 1, 1],  # background
            [1, 0, 1, 1, 0, 0],  # cell
            [0, 1, 0, 0, 0, 0],  # nucleus, over the cell
            [1, 1, 1, 1, 1, 0],  # edges of either kind
        ],
    )


def test_a_later_kind_covers() -> None:
    s = sample([[1]], [[1]])
    np.testing.assert_array_equal(signal_of(make(edges=False), s).data[0, :, 0, 0], [0, 0, 1])
    reverse = make(masks=["nucleus", "cell"], edges=False)
    np.testing.assert_array_equal(signal_of(reverse, s).data[0, :, 0, 0], [0, 0, 1])


@pytest.mark.parametrize(("edges", "width"), [(True, 4), (False, 3)])
def test_spec_is_the_form_of_the_signal(edges: bool, width: int) -> None:
    conditioner = make(edges=edges)
    s = sample(np.zeros((3, 5)), np.ones((3, 5)))
    assert conditioner.spec == Spec("map", width)
    assert signal_of(conditioner, s, s).data.shape == (2, width, 3, 5)
    assert conditioner.reads == {"morphology"}


def test_the_border_of_the_image_is_no_edge() -> None:
    assert not instance_edges(np.ones((4, 4), np.int32)).any()


@given(fields, st.integers(1, 5))
@settings(deadline=None)
def test_padding_makes_no_edges(labels: np.ndarray, multiple: int) -> None:
    """What is painted of a field that is padded sees what a crop of that size saw in training."""
    field = sample(labels, labels)
    height, width = field.size
    padded = make().observe(pad_to_multiple(field, multiple))
    for name, seen in make().observe(field).items():
        assert torch.equal(padded[name][:height, :width], seen)
        assert not padded[name][height:].any()
        assert not padded[name][:, width:].any()


@settings(max_examples=40, deadline=None)
@given(fields)
def test_edges_against_the_definition(labels: np.ndarray) -> None:
    height, width = labels.shape
    expected = np.zeros(labels.shape, bool)
    for y in range(height):
        for x in range(width):
            near = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
            expected[y, x] = any(
                0 <= b < height and 0 <= a < width and labels[b, a] != labels[y, x] for b, a in near
            )
    np.testing.assert_array_equal(instance_edges(labels), expected)


@settings(max_examples=30, deadline=None)
@given(fields)
def test_one_hot_and_null_distinct(labels: np.ndarray) -> None:
    conditioner = make()
    signal = signal_of(conditioner, sample(labels, labels // 2))
    assert (signal.data[:, :3].sum(1) == 1).all()
    null = conditioner.null(signal)
    assert null.data.shape == signal.data.shape
    assert (null.data != signal.data).any(1).all()


def test_deterministic_also_after_pickling() -> None:
    conditioner = make()
    again = pickle.loads(pickle.dumps(conditioner))
    s = sample([[1, 0], [2, 2]], [[0, 0], [0, 1]])
    assert torch.equal(signal_of(conditioner, s).data, signal_of(again, s).data)


def test_bad_settings() -> None:
    for bad in ({"masks": []}, {"masks": ["cell", "cell"]}):
        with pytest.raises(ValidationError):
            make(**bad)


def test_classes_of_instances_have_channels_of_their_own() -> None:
    s = replace(
        sample([[1, 1, 2, 2, 0, 0]], [[0, 5, 0, 7, 0, 9]]),
        classes={"nucleus": {5: "plasma", 7: "unheard of"}, "cell": {2: "tumour", 1: ""}},
    )
    conditioner = make(classes=["tumour", "plasma"], edges=False)
    assert conditioner.spec == Spec("map", 5)
    np.testing.assert_array_equal(
        signal_of(conditioner, s).data[0, :, 0],
        [
            [0, 0, 0, 0, 1, 0],  # background
            [1, 0, 0, 0, 0, 0],  # cell
            [0, 0, 0, 1, 0, 1],  # nucleus of no class that is named
            [0, 0, 1, 0, 0, 0],  # tumour cell
            [0, 1, 0, 0, 0, 0],  # plasma cell's nucleus
        ],
    )
    bare = replace(s, classes={})
    torch.testing.assert_close(
        signal_of(conditioner, bare).data[:, :3], signal_of(make(edges=False), bare).data
    )
    with pytest.raises(ValidationError, match="a class is named twice"):
        make(classes=["plasma", "plasma"])
