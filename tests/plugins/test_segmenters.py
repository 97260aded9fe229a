"""Segmenters: flows lead back to masks, a network learns discs, and what is wrong is one line."""

import json
import shlex
import types
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from msdm_kit.core.checkpoint import load_tensors, save_tensors
from msdm_kit.core.dataset import FieldDataset
from msdm_kit.core.errors import MsdmError
from msdm_kit.core.fields import read_field
from msdm_kit.core.manifest import read_manifest
from msdm_kit.plugins.segmentation.agreement import check_judges, segmenter_agreement
from msdm_kit.plugins.segmentation.evaluation import evaluate_segmentation
from msdm_kit.plugins.segmenters import cpsam as cpsam_module
from msdm_kit.plugins.segmenters import flows
from msdm_kit.plugins.segmenters.fields import Joined
from msdm_kit.plugins.segmenters.folder import load_segmenter, open_segmenter, read_trained
from msdm_kit.plugins.segmenters.jobs import new_segmenter, predict, train_segmenter
from msdm_kit.plugins.segmenters.network import SmallUNet

from ..discs import disc_field

CPU = torch.device("cpu")
TRAIN = [disc_field(i) for i in range(5)]
TEST = [disc_field(100 + i) for i in range(3)]
LEARNS = {"type": "scratch-small", "epochs": 20, "crops": 8, "batch": 2, "learning_rate": 0.01, "crop": 64}
LEARNS |= {"channels": [16, 32]}
SHORT = {**LEARNS, "epochs": 11, "crops": 2, "channels": [4, 8], "crop": 32}
THRESHOLDS = {"flow_threshold": 0.4, "cellprob_threshold": 0.0, "min_size": 15}


def fit(folder, entry=SHORT, train=TRAIN, validation=(), kind="nucleus", **options):
    return train_segmenter(entry, kind, train, validation, folder, device="cpu", **options)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "discs"
    seen = []
    segmenter = fit(folder, LEARNS, on_progress=lambda *event: seen.append(event))
    assert seen == [(i, 20) for i in (0, *range(2, 21))]
    return folder, segmenter


def test_targets_of_a_disc_point_to_its_centre():
    rows, columns = np.mgrid[:31, :31] - 15
    labels = np.where(rows**2 + columns**2 <= 100, 7, 0).astype(np.int32)
    found = flows.targets(labels, CPU)
    inside = labels > 0
    assert found.shape == (4, 31, 31)
    assert found.dtype == np.float32
    assert (found[0] == inside).all()
    assert (found[1] == inside).all()
    assert not found[2:, ~inside].any()
    away = inside & (rows**2 + columns**2 > 4)
    down, right = found[2:, away]
    length = np.hypot(rows, columns)[away]
    np.testing.assert_allclose(np.hypot(down, right), 1, atol=1e-3)
    cosine = -(down * rows[away] + right * columns[away]) / length
    assert cosine.min() > 0.97


@pytest.mark.parametrize("seed", range(3))
def test_flows_lead_back_to_the_masks(seed):
    labels = disc_field(seed).labels("nucleus")
    found = flows.targets(labels, CPU)
    maps = np.concatenate((5 * found[2:], 12 * found[1:2] - 6))
    back = flows.instances(maps, **THRESHOLDS, device=CPU)
    assert back.dtype == np.int32
    assert set(np.unique(back)) == set(range(labels.max() + 1))
    for label in range(1, labels.max() + 1):
        mine = labels == label
        same = back == np.bincount(back[mine]).argmax()
        assert (mine & same).sum() / (mine | same).sum() > 0.95


def test_maps_of_background_have_no_instance():
    maps = np.full((3, 20, 24), -3, np.float32)
    assert not flows.instances(maps, **THRESHOLDS, device=CPU).any()


def test_flows_are_computed_once_and_kept_within_bounds(monkeypatch):
    monkeypatch.setattr(flows, "_kept", type(flows._kept)())
    masks = [disc_field(i, size=40, discs=1).labels("nucleus") for i in range(3)]
    first = [flows.targets(mask, CPU) for mask in masks]
    with monkeypatch.context() as only:
        only.setattr(flows, "cellpose", None)
        assert all((flows.targets(m * 3, CPU) == f).all() for m, f in zip(masks, first, strict=True))
    monkeypatch.setattr(flows, "KEPT_BYTES", 2 * first[0][2:].nbytes)
    flows.targets(masks[0], CPU)
    assert len(flows._kept) == 2


def test_renumber():
    assert flows.renumber(np.array([[0, 9, 9], [4, 0, 70000]])).tolist() == [[0, 2, 2], [1, 0, 3]]
    assert flows.renumber(np.array([[5, 5], [2, 2]])).tolist() == [[2, 2], [1, 1]]


def test_a_network_learns_discs(model):
    _, segmenter = model
    scores = [segmenter_agreement([segmenter], field.image, field.masks) for field in TEST]
    assert min(scores) > 0.8


def test_saved_and_loaded_segments_the_same(model):
    folder, segmenter = model
    again, facts = load_segmenter(folder, device="cpu")
    for field in TEST:
        assert (again.maps(field.image) == segmenter.maps(field.image)).all()
        assert (again.segment(field.image) == segmenter.segment(field.image)).all()
    assert facts.kind == again.kind == "nucleus"
    assert (facts.segmenter["epochs"], facts.segmenter["scale_range"]) == (20, 0.5)
    assert facts.train_fields == 5
    assert facts.train_instances == sum(int(f.labels("nucleus").max()) for f in TRAIN)
    assert len(facts.train_loss) == 20
    assert facts.train_loss[-1] < facts.train_loss[0] / 2
    assert facts.validation_loss == {}
    opened, weights = open_segmenter(str(folder), device="cpu")
    assert weights == facts.weights_sha256
    assert opened.kind == "nucleus"


def test_weights_depend_on_seed_and_training_fields_alone(tmp_path):
    np.random.seed(3)  # noqa: NPY002  # the global one, which Cellpose uses
    torch.manual_seed(3)
    before = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    fit(tmp_path / "a", seed=1)
    assert (np.random.get_state()[1] == before[0]).all()  # noqa: NPY002
    assert (torch.get_rng_state() == before[1]).all()
    np.random.random(5)  # noqa: NPY002
    fit(tmp_path / "b", seed=1, validation=TEST)
    fit(tmp_path / "c", seed=2)
    a, b, c = (read_trained(tmp_path / name) for name in "abc")
    assert a.weights_sha256 == b.weights_sha256 != c.weights_sha256
    assert a.train_loss == b.train_loss
    assert sorted(b.validation_loss) == [1, 6, 11]
    assert a.train_sha256 == b.train_sha256 == c.train_sha256
    # another seed is another order of crops as well, not the first weights alone
    first = [load_tensors(tmp_path / name / "weights.safetensors")[0] for name in "ac"]
    assert any((first[0][key] != first[1][key]).any() for key in first[0])


def test_nothing_is_printed(tmp_path, capfd):
    segmenter = fit(tmp_path / "m", validation=TEST[:1])
    segmenter.segment(TEST[0].image)
    assert capfd.readouterr() == ("", "")


def test_an_interruption_leaves_nothing(tmp_path):
    def stop(done, total):
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "m", on_progress=stop)
    with pytest.raises(KeyboardInterrupt):
        predict([new_segmenter(SHORT, "nucleus")[0]], TEST, tmp_path / "p", on_progress=lambda *_: stop(5, 5))
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_trained_on(tmp_path):
    empty = [types.SimpleNamespace(**vars(TRAIN[0]), labels=lambda kind: np.zeros((80, 80), np.int32))]
    cases = [
        ({}, {"train": empty}, "none of 1 training fields has an instance of kind 'nucleus'"),
        ({}, {"kind": "cell"}, "sample 'd0' has no 'cell' mask"),
        ({"learning_rate": 1e30}, {}, "lower learning_rate"),
        ({"epochs": 10}, {}, "epochs"),
        ({"crop": 33}, {}, "crop 33 is no multiple of 4"),
        ({"channels": [0, 4]}, {}, "channels"),
        ({"type": "cpsma"}, {}, "did you mean 'cpsam'"),
        ({"kind": "x"}, {}, "kind: unknown key"),
        ({}, {"kind": "../x"}, "cannot name a folder"),
    ]
    for entry, options, words in cases:
        with pytest.raises(MsdmError, match=words) as caught:
            fit(tmp_path / "m", {**SHORT, **entry}, **options)
        assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_wrong_folders_are_one_line(model, tmp_path):
    source, _ = model
    text, weights = (source / "segmenter.json").read_text(), (source / "weights.safetensors").read_bytes()
    facts = json.loads(text)
    tensors, kept = load_tensors(source / "weights.safetensors")
    save_tensors(tmp_path / "cells", tensors, {**kept, "kind": "cell"})
    save_tensors(tmp_path / "other", {k: v + 1 for k, v in tensors.items()}, kept)

    def changed(**changes):
        return json.dumps({**facts, **changes})

    settings = facts["segmenter"]
    cases = [
        (None, weights, "holds no segmenter.json"),
        (text[:99], weights, "segmenter.json"),
        ("[]", weights, "segmenter.json"),
        (changed(colour="red"), weights, "colour: unknown key"),
        (changed(format=2), weights, "format"),
        (changed(segmenter={**settings, "type": "nothing"}), weights, "nothing"),
        (changed(segmenter={**settings, "channels": [16, 32, 64]}), weights, "another network"),
        (changed(segmenter={**settings, "channels": [2**15, 2**17]}), weights, "another network"),
        (changed(segmenter={**settings, "channels": [8, 2**62]}), weights, "another network"),
        (changed(segmenter={**settings, "channels": [8, 2**63]}), weights, "another network"),
        (changed(kind="cell"), weights, "kind 'nucleus', and 'cell' is wanted"),
        (text, (tmp_path / "cells").read_bytes(), "kind 'cell', and 'nucleus' is wanted"),
        (text, (tmp_path / "other").read_bytes(), "is not the file that segmenter.json"),
        (text, None, "weights.safetensors"),
        (text, weights[:500], "weights.safetensors"),
    ]
    for i, (words, data, expected) in enumerate(cases):
        folder = tmp_path / str(i)
        folder.mkdir()
        if words is not None:
            (folder / "segmenter.json").write_text(words)
        if data is not None:
            (folder / "weights.safetensors").write_bytes(data)
        with pytest.raises(MsdmError, match=expected) as caught:
            load_segmenter(folder, device="cpu")
        assert "\n" not in str(caught.value)


def test_parts_are_joined_in_order():
    joined = Joined([[1, 2], [], [3]])
    assert [joined[i] for i in range(len(joined))] == [1, 2, 3]
    assert joined[-1] == 3
    with pytest.raises(IndexError):
        joined[3]


@pytest.mark.parametrize(
    "data", [b"", b"root:x:0:0", b"PK\3\4" + bytes(60), b"\x80\x02cos\nsystem\n.", bytes(8) + b"{}"]
)
def test_weights_that_are_none_are_one_line(tmp_path, data):
    (tmp_path / "weights").write_bytes(data)
    with pytest.raises(MsdmError, match="cannot be read as Cellpose's weights") as caught:
        cpsam_module.read_weights(tmp_path / "weights")
    assert "\n" not in str(caught.value)


def test_predictions_are_a_data_set_that_evaluation_reads(model, tmp_path):
    _, segmenter = model
    blank = disc_field(7, discs=0)
    fields = Joined([TEST, [blank]])
    seen = []
    done = predict([segmenter], fields, tmp_path / "p", hashes=["abc"], on_progress=lambda *e: seen.append(e))
    assert seen == [(i, 4) for i in range(5)]
    assert done.fields == 4
    rows = read_manifest(tmp_path / "p" / "metadata.csv")
    assert [row["id"] for row in rows] == ["d100", "d101", "d102", "d7"]
    assert (rows[0]["assay"], json.loads(rows[0]["segmenter"])) == ("discs", {"nucleus": "abc"})
    raw, problems = read_field(tmp_path / "p", "d100", ["nucleus"])
    assert problems == []
    assert (raw.masks["nucleus"] == segmenter.segment(TEST[0].image)).all()
    assert len(FieldDataset(tmp_path / "p", masks=())) == 4
    counts = sum(int(segmenter.segment(fields[i].image).max()) for i in range(4))
    assert done.instances == {"nucleus": counts}
    found = evaluate_segmentation(tmp_path / "p", [tmp_path / "p"], metrics=["nucleus_f1"])
    assert len(found.fields) == 4
    painted = replace(TEST[0], metadata={**TEST[0].metadata, "sha256_nuclei": "abc", "classes_sha256": "abc"})
    predict([segmenter], [painted], tmp_path / "masks", images=False)
    assert not [name for name in read_manifest(tmp_path / "masks" / "metadata.csv")[0] if "sha256" in name]
    assert sorted(path.name for path in (tmp_path / "masks").iterdir()) == ["metadata.csv", "nuclei"]


def test_predictions_that_cannot_be_made(model, tmp_path):
    _, segmenter = model
    without = [types.SimpleNamespace(id="x", image=None)]
    for segmenters, fields, words in [
        ([segmenter, segmenter], TEST, "2 segmenters find masks of kind 'nucleus'"),
        ([segmenter], without, "field 'x' has no image"),
    ]:
        with pytest.raises(MsdmError, match=words):
            predict(segmenters, fields, tmp_path / "p")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "mine").touch()
    with pytest.raises(MsdmError, match="not an empty folder"):
        predict([segmenter], TEST, tmp_path / "p")


def test_segmenters_by_name_of_the_command_line(model, tmp_path):
    folder, _ = model
    for text, kind, words in [
        (str(folder), "cell", "finds masks of kind 'nucleus', not 'cell'"),
        ("scratch-small", None, "no folder 'scratch-small'"),
        ("scratch-small:epochs=11", "cell", "train it with msdm-kit segment train"),
        ("cpsam:epochs=11", "cell", "needs its weights"),
        (f"cpsam:weights={tmp_path / 'none'}", "cell", "no file"),
        ("cpsam:epochs=11", None, "--kind"),
        (str(tmp_path), None, "holds no segmenter.json"),
    ]:
        with pytest.raises(MsdmError, match=words):
            open_segmenter(text, kind, device="cpu")


def test_agreement_by_hand(model):
    _, segmenter = model
    field = TEST[0]
    found = segmenter.segment(field.image)
    half = np.where(found > found.max() // 2, 0, found)
    n, left = int(found.max()), int(half.max())
    assert segmenter_agreement([segmenter], field.image, {"nucleus": found}) == 1
    assert segmenter_agreement([segmenter], field.image, {"nucleus": half}) == 2 * left / (n + left)
    assert segmenter_agreement([segmenter], field.image, {"nucleus": np.zeros_like(found)}) == 0
    blank = types.SimpleNamespace(kind="nucleus", segment=lambda image: np.zeros((4, 4), np.int32))
    nothing = segmenter_agreement([blank], field.image, {"nucleus": np.zeros((4, 4), np.int32)})
    assert np.isnan(nothing)
    check_judges([segmenter], ["nucleus"], True)
    for judges, kinds, words in [
        ([], ["nucleus"], "--segmenter MODEL as well"),
        ([segmenter], ["cell"], "kind 'nucleus', and they are not painted from"),
        ([segmenter, segmenter], ["nucleus"], "give one"),
    ]:
        with pytest.raises(MsdmError, match=words):
            check_judges(judges, kinds, True)


def test_cpnet_needs_cellpose_3(tmp_path):
    with pytest.raises(MsdmError, match=r"pip install 'cellpose>=3.1,<4' or take"):
        fit(tmp_path / "m", {"type": "cpnet"})


def test_cellpose_3_is_told_apart(monkeypatch):
    monkeypatch.setattr(flows.importlib.metadata, "version", lambda name: "3.1.1.2")
    for name in ("scratch-small", "cpsam"):
        with pytest.raises(MsdmError, match=r"needs Cellpose 4, and 3 is installed; run: pip install"):
            new_segmenter({"type": name}, "cell", device="cpu")


def test_cpsam_reads_weights_and_nothing_else(tmp_path, monkeypatch):
    from msdm_kit.cli.main import run

    # Cellpose-SAM's own network has 305 million parameters
    monkeypatch.setattr(cpsam_module.CPSAM, "architecture", lambda self: SmallUNet([4, 8], 2))
    good = SmallUNet([4, 8], 2).state_dict()
    torch.save({f"module.{name}": tensor for name, tensor in good.items()}, tmp_path / "cpsam_v2")
    save_file({"a": torch.zeros(2)}, tmp_path / "other.safetensors")
    (tmp_path / "text.safetensors").write_text("hello")
    said = {}
    for name, words in [
        ("none", "no file"),
        ("other.safetensors", "does not hold the weights"),
        ("text.safetensors", "cannot be read"),
        ("cpsam_v2", "no .safetensors file; run: msdm-kit"),
    ]:
        with pytest.raises(MsdmError, match=words) as caught:
            fit(tmp_path / "m", {"type": "cpsam", "weights": str(tmp_path / name), "epochs": 11})
        said[name] = str(caught.value)
        assert "\n" not in said[name]
    assert "hf download" in said["none"]
    # the command that it names is the one that helps
    command, _, file = said["cpsam_v2"].partition("run: msdm-kit ")[2].partition(" and give ")
    assert run(shlex.split(command)) == 0
    segmenter, _ = open_segmenter(f"cpsam:weights={file}", "nucleus", device="cpu")
    assert all((v == good[k]).all() for k, v in segmenter.network.state_dict().items())
    assert segmenter.segment(TEST[0].image).shape == (80, 80)


def test_cpsam_is_fine_tuned_and_then_needs_no_other_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(cpsam_module.CPSAM, "architecture", lambda self: SmallUNet([4, 8], 2))
    monkeypatch.setattr(cpsam_module, "CROP", 64)
    save_file(SmallUNet([4, 8], 2).state_dict(), tmp_path / "good.safetensors")
    entry = {"type": "cpsam", "weights": str(tmp_path / "good.safetensors"), "epochs": 11, "crops": 1}
    tuned = fit(tmp_path / "m", entry)
    (tmp_path / "good.safetensors").unlink()
    again, _ = load_segmenter(tmp_path / "m", device="cpu")
    assert (again.maps(TEST[0].image) == tuned.maps(TEST[0].image)).all()
