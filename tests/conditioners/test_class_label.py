import json
import pickle

import numpy as np
import pytest
import torch

from msdm_kit.conditioners.class_label import ClassLabel
from msdm_kit.core.conditioning import Spec
from msdm_kit.core.errors import MsdmError
from msdm_kit.core.sample import Sample, recombine

ROWS = [
    {"id": "a", "indication": "lung"},
    {"id": "b", "indication": "breast"},
    {"id": "c", "indication": "lung"},
]


def make(dim: int = 8) -> ClassLabel:
    config = ClassLabel.Config(column="indication", dim=dim)
    return ClassLabel(config, json.loads(json.dumps(ClassLabel.fit(config, ROWS))))


def sample(**metadata: str) -> Sample:
    return Sample(id="s", masks={"cell": np.zeros((2, 2), np.int32)}, metadata=metadata)


def test_facts_are_the_sorted_classes_whatever_the_order_of_rows() -> None:
    config = ClassLabel.Config(column="indication")
    assert ClassLabel.fit(config, ROWS) == {"classes": ["breast", "lung"]}
    assert ClassLabel.fit(config, ROWS[::-1]) == ClassLabel.fit(config, ROWS)


def test_index_and_vector() -> None:
    conditioner = make()
    batch = conditioner.collate(
        [conditioner.observe(sample(indication=v)) for v in ("lung", "breast", "lung")]
    )
    assert batch["index"].tolist() == [1, 0, 1]
    signal = conditioner.encode(batch)
    assert conditioner.spec == Spec("vector", 8)
    assert signal.data.shape == (3, 8)
    assert signal.mask is None
    assert torch.equal(signal.data[0], signal.data[2])
    assert torch.equal(signal.data[1], conditioner.embedding.weight[0])
    assert conditioner.reads == {"metadata"}


def test_null_is_a_learned_row_of_its_own() -> None:
    conditioner = make()
    batch = conditioner.collate([conditioner.observe(sample(indication=v)) for v in ("lung", "breast")])
    signal = conditioner.encode(batch)
    null = conditioner.null(signal)
    assert null.data.shape == signal.data.shape
    assert (null.data != signal.data).any(1).all()
    null.data.sum().backward()
    grad = conditioner.embedding.weight.grad
    assert grad is not None
    assert grad[-1].all()
    assert not grad[:-1].any()


def test_metadata_of_another_sample_or_given_by_hand() -> None:
    conditioner = make()
    a, b = sample(indication="lung"), sample(indication="breast")
    assert conditioner.observe(recombine(a, metadata=b))["index"] == 0
    assert conditioner.observe(recombine(a, metadata={"indication": "breast"}))["index"] == 0


def test_missing_column_names_the_columns() -> None:
    with pytest.raises(
        MsdmError, match=r"no column 'indicaton'; did you mean 'indication'\? legal: id, indication"
    ):
        ClassLabel.fit(ClassLabel.Config(column="indicaton"), ROWS)
    with pytest.raises(MsdmError, match="no rows"):
        ClassLabel.fit(ClassLabel.Config(column="indication"), [])


def test_unseen_value_names_the_legal_ones() -> None:
    with pytest.raises(
        MsdmError, match=r"indication is 'brest'.*did you mean 'breast'\? legal: breast, lung"
    ):
        make().observe(sample(indication="brest"))
    with pytest.raises(MsdmError, match="'s' has no metadata 'indication'"):
        make().observe(sample(assay="ihc"))


def test_pickled() -> None:
    conditioner = make()
    again = pickle.loads(pickle.dumps(conditioner))
    assert again.observe(sample(indication="lung")) == conditioner.observe(sample(indication="lung"))
    assert torch.equal(again.embedding.weight, conditioner.embedding.weight)
