"""--dry-run: all that can be known before, and nothing written."""

import re

from .test_mistakes import refuses


def test_it_prints_everything_and_writes_nothing(msdm, data, recipe, tmp_path, monkeypatch):
    before = sorted(tmp_path.rglob("*"))
    outcome = msdm("train", recipe, "--data", data, "--out", tmp_path / "run", "--dry-run")
    assert outcome.code == 0, outcome.err
    assert outcome.err == ""
    assert sorted(tmp_path.rglob("*")) == before
    for line in (
        r"^name: tiny$",
        r"^parameters, backbone +[\d,]+$",
        r"^parameters, conditioners.tissue +12$",
        r"^parameters, injectors.0 \(spade\) +[\d,]+$",
        r"^parameters +[\d,]+$",
        r"^memory, the process before +[\d.]+ [MG]iB$",
        r"^memory, gradients and activations of a step +\d+\.\d MiB$",
        r"^memory, or painting a preview +\d+\.\d MiB$",
        r"^memory, or writing a checkpoint +\d+\.\d MiB$",
        r"^memory, estimate of the peak +[\d.]+ [MG]iB$",
        r"^memory, free now +[\d.]+ [MG]iB$",
        r"^training fields +4$",
        r"^steps per epoch +2.0$",
        r"^steps +4$",
        r"^images +8$",
        r"^note: train.checkpointing=auto is off: training takes about",
        r"^dry run: nothing was written$",
    ):
        assert re.search(line, outcome.out, re.M), line
    assert "warning" not in outcome.out


def test_a_crop_larger_than_the_fields_is_a_warning(msdm, data, recipe, tmp_path):
    words = ("train", recipe, "--data", data, "--out", tmp_path / "run", "--set", "data.crop=64")
    outcome = msdm(*words, "--dry-run")
    assert outcome.code == 0, outcome.err
    assert "warning: 4 of 4 training fields are smaller than data.crop 64" in outcome.out
    assert "--set data.crop=20" in outcome.out
    refuses(msdm(*words), "smaller than data.crop 64")


def test_the_same_mistakes_are_found(msdm, data, recipe, tmp_path):
    words = ("train", recipe, "--data", data, "--dry-run")
    refuses(msdm(*words, "--out", data), "is not empty")
    refuses(msdm(*words, "--out", tmp_path / "run", "--set", "backbone.groups=5"), "groups")
    masks = "conditioners.morphology.masks=[nucleus, gland]"
    refuses(msdm(*words, "--out", tmp_path / "run", "--set", masks), "'gland' is not in data.masks")
    (data / "nuclei" / "f0.png").unlink()
    refuses(msdm(*words, "--out", tmp_path / "run"), "nuclei/f0.png")
