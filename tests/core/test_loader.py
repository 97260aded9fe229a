"""The training stream does not depend on batches, workers or where it was resumed."""

import multiprocessing
import os
import pickle
import signal
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from msdm_kit.core.conditioning import Conditioner, PluginConfig, Signal, Spec
from msdm_kit.core.dataset import FieldDataset
from msdm_kit.core.errors import MsdmError
from msdm_kit.core.images import save_image, save_labels
from msdm_kit.core.loader import TrainingStream, make_loader
from msdm_kit.core.manifest import write_manifest
from msdm_kit.core.recipe import DataSection

from ..toy import toy_folder


class Mask(Conditioner):
    """The cell labels; it holds weights, which `observe` must not need."""

    reads = frozenset({"morphology"})

    def __init__(self):
        super().__init__(PluginConfig(), {})
        self.weight = nn.Parameter(torch.zeros(1_000_000))
        self.register_buffer("offset", torch.tensor(5))
        self.spec = Spec("map", 1)

    def observe(self, sample):
        return {"labels": torch.from_numpy(sample.masks["cell"])[None] + self.offset}

    def encode(self, batch):
        return Signal(batch["labels"].float())

    def null(self, like):
        return Signal(torch.zeros_like(like.data))


class Words(Conditioner):
    """As many tokens as the field's number, padded by its own `collate`; it refuses the assay `bad`."""

    def __init__(self):
        super().__init__(PluginConfig(), {})
        self.spec = Spec("tokens", 1)

    def observe(self, sample):
        if sample.metadata["assay"] == "bad":
            raise MsdmError(f"field {sample.id!r} has the assay 'bad'; mend it")
        return {"ids": torch.arange(int(sample.id) + 1)}

    def collate(self, observations):
        return {"ids": nn.utils.rnn.pad_sequence([o["ids"] for o in observations], True, -1)}

    def encode(self, batch):
        return Signal(batch["ids"][..., None].float())

    def null(self, like):
        return Signal(torch.zeros_like(like.data))


DATA = DataSection(masks=("cell",), crop=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_manifest(root / "metadata.csv", [{"id": str(i), "assay": "x"} for i in range(5)])
    for i in range(5):
        # The labels are in the image, so that the two can be compared after every step.
        labels = np.arange(1, 12 * 14 + 1).reshape(12, 14)
        save_labels(root / "cells" / f"{i}.png", labels)
        save_image(
            root / "images" / f"{i}.png", np.stack([labels / 127.5 - 1, labels * 0 + i / 5, labels * 0])
        )
    return root


@pytest.fixture(scope="module")
def stream(folder):
    return TrainingStream(FieldDataset(folder, masks=("cell",)), {"m": Mask(), "w": Words()}, DATA, seed=7)


def same(a, b):
    assert a.ids == b.ids
    assert torch.equal(a.image, b.image)
    for name, observation in a.observations.items():
        for key, tensor in observation.items():
            assert torch.equal(tensor, b.observations[name][key])


def test_an_epoch_is_a_permutation_and_epochs_differ(stream):
    ids = [stream[n]["id"] for n in range(20)]
    epochs = [ids[i : i + 5] for i in range(0, 20, 5)]
    assert all(sorted(epoch) == list("01234") for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_crops_of_a_field_differ_between_epochs_and_seeds(folder, stream):
    crops = {
        crop["image"].numpy().tobytes() for crop in map(stream.__getitem__, range(40)) if crop["id"] == "2"
    }
    assert len(crops) >= 6
    other = TrainingStream(stream.dataset, {}, DATA, seed=8)
    assert [other[n]["id"] for n in range(10)] != [stream[n]["id"] for n in range(10)]


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 60), max_size=8))
def test_a_crop_does_not_depend_on_what_was_asked_before(stream, before):
    expected = stream[17]
    for n in before:
        stream[n]
    again = stream[17]
    assert again["id"] == expected["id"]
    assert torch.equal(again["image"], expected["image"])


def test_conditions_are_observed_on_the_crop(stream):
    for n in range(10):
        crop = stream[n]
        assert crop["image"].shape == (3, 8, 8)
        pixels = torch.round((crop["image"][0] + 1) * 127.5).int()
        assert torch.equal(crop["observations"]["m"]["labels"][0], pixels + 5)


def in_batches(start, count, batch):
    """The crops from `start`, so many at a time."""
    return [list(range(n, min(n + batch, start + count))) for n in range(start, start + count, batch)]


def test_batches(stream):
    loader = make_loader(stream, in_batches(3, 7, 3), workers=0)
    batches = list(loader)
    assert len(loader) == 3
    assert [len(batch.ids) for batch in batches] == [3, 3, 1]
    assert [id for batch in batches for id in batch.ids] == [stream[n]["id"] for n in range(3, 10)]
    batch = batches[0]
    assert batch.image.shape == (3, 3, 8, 8)
    assert batch.observations["m"]["labels"].shape == (3, 1, 8, 8)
    assert (batch.observations["w"]["ids"] >= 0).sum(1).tolist() == [int(id) + 1 for id in batch.ids]


def test_workers_change_nothing(stream):
    alone = list(make_loader(stream, in_batches(2, 9, 2), workers=0))
    shared = list(make_loader(stream, in_batches(2, 9, 2), workers=2))
    assert len(alone) == len(shared) == 5
    for a, b in zip(alone, shared, strict=True):
        same(a, b)


def test_a_resume_continues_exactly(stream):
    whole = list(make_loader(stream, in_batches(0, 12, 2), workers=0))
    for a, b in zip(whole[4:], make_loader(stream, in_batches(8, 4, 2), workers=0), strict=True):
        same(a, b)


def test_loading_leaves_the_global_generators_alone(stream):
    torch.manual_seed(0)
    state = torch.get_rng_state()
    list(make_loader(stream, in_batches(0, 4, 2), workers=0))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("dumps", [pickle.dumps, ForkingPickler.dumps])
def test_a_pickled_stream_holds_no_weights_and_gives_the_same_crops(stream, dumps):
    message = dumps(stream)
    assert len(message) < 20_000
    twin = pickle.loads(message)
    assert stream.conditioners["m"].weight.device.type == "cpu"
    assert twin.conditioners["m"].weight.is_meta
    for n in (0, 11):
        same(twin.collate([twin[n]]), stream.collate([stream[n]]))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_mistake_found_in_a_worker_is_one_line(folder, workers):
    data = FieldDataset(folder, masks=("cell",))
    for row in data.rows:
        row["assay"] = "bad"
    stream = TrainingStream(data, {"w": Words()}, DATA, seed=7)
    with pytest.raises(MsdmError) as caught:
        list(make_loader(stream, in_batches(0, 2, 2), workers=workers))
    assert str(caught.value) == f"field {stream_id(stream)!r} has the assay 'bad'; mend it"


@pytest.mark.parametrize("bad", [False, True])
def test_workers_end_with_the_loop(folder, bad):
    data = FieldDataset(folder, masks=("cell",))
    for row in data.rows:
        row["assay"] = "bad" if bad else "good"
    loader = make_loader(TrainingStream(data, {"w": Words()}, DATA, 7), in_batches(0, 20, 2), workers=2)
    caught = None
    try:
        for _ in loader:
            assert multiprocessing.active_children()
            break
    except MsdmError as error:
        caught = error
    # Even while the exception, and the frames it passed through, are still held.
    assert (caught is not None) == bad
    assert not multiprocessing.active_children()


def stream_id(stream):
    plain = TrainingStream(stream.dataset, {}, stream.data, stream.seed)
    return plain[0]["id"]


def test_a_crop_larger_than_a_field_is_refused_before_training(folder):
    with pytest.raises(MsdmError) as caught:
        TrainingStream(FieldDataset(folder, masks=("cell",)), {}, DataSection(masks=("cell",), crop=16), 0)
    message = str(caught.value)
    assert message.startswith(f"field '0' of {folder} is 12 x 14, smaller than data.crop 16; lower")
    assert "(+4 more)" in message
    assert "\n" not in message


def test_loader_processes_outlive_ctrl_c(tmp_path):
    """The terminal sends it to every process; the main one still wants its batches, to stop in order."""
    dataset = FieldDataset(toy_folder(tmp_path, ["a", "b", "c"]))
    stream = TrainingStream(dataset, {}, DataSection(crop=32), 0)
    batches = iter(make_loader(stream, in_batches(0, 30, 1), workers=1))
    next(batches)
    (worker,) = multiprocessing.active_children()
    os.kill(worker.pid, signal.SIGINT)
    assert sum(1 for _ in batches) == 29
