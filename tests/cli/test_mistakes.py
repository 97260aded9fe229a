"""A mistake is one line on stderr and status 2, and leaves nothing behind."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from .conftest import RECIPE, write_field


def refuses(outcome, *words: str) -> None:
    assert outcome.code == 2, outcome
    assert outcome.err.startswith("error: ")
    assert outcome.err.count("\n") == 1, outcome.err
    for word in words:
        assert word in outcome.err


def missing_image(data: Path) -> str:
    (data / "images" / "f1.png").unlink()
    return "images/f1.png"


def missing_mask(data: Path) -> str:
    (data / "nuclei" / "f1.png").unlink()
    return "nuclei/f1.png"


def missing_masks(data: Path) -> str:
    for path in (data / "nuclei").iterdir():
        path.unlink()
    (data / "nuclei").rmdir()
    return "nuclei is missing"


def other_size(data: Path) -> str:
    Image.fromarray(np.ones((24, 21), np.uint16)).save(data / "nuclei" / "f2.png")
    return "24 x 21"


def wrong_image_type(data: Path) -> str:
    Image.fromarray(np.zeros((24, 20), np.uint8)).save(data / "images" / "f2.png")
    return "greyscale"


def wrong_mask_type(data: Path) -> str:
    Image.fromarray(np.ones((24, 20, 3), np.uint8)).save(data / "nuclei" / "f2.png")
    return "RGB"


def empty_mask(data: Path) -> str:
    Image.fromarray(np.zeros((24, 20), np.uint16)).save(data / "nuclei" / "f3.png")
    return "no instance"


def unreadable(data: Path) -> str:
    path = data / "images" / "f0.png"
    path.write_bytes(path.read_bytes()[:60])
    return "damaged"


def no_manifest(data: Path) -> str:
    (data / "metadata.csv").unlink()
    return "metadata.csv"


def no_column(data: Path) -> str:
    manifest = data / "metadata.csv"
    manifest.write_text(manifest.read_text().replace("indication", "organ"))
    return "indication"


def small_field(data: Path) -> str:
    write_field(data, "f0", size=(20, 18))
    manifest = data / "metadata.csv"
    manifest.write_text("\n".join(manifest.read_text().splitlines()[:5]) + "\n")  # no validation fields
    return "smaller than data.crop 20"


FAULTS = [
    missing_image,
    missing_mask,
    missing_masks,
    other_size,
    wrong_image_type,
    wrong_mask_type,
    empty_mask,
    unreadable,
    no_manifest,
    no_column,
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.__name__)
def test_faults_of_the_data(msdm, data, recipe, tmp_path, fault):
    named = fault(data)
    out = tmp_path / "run"
    refuses(msdm("train", recipe, "--data", data, "--out", out), named)
    assert not out.exists()


def test_a_field_smaller_than_the_crop(msdm, data, recipe, tmp_path):
    named = small_field(data)
    out = tmp_path / "run"
    refuses(msdm("train", recipe, "--data", data, "--out", out, "--set", "data.crop=20"), named)
    assert not out.exists()


def test_template_with_a_column_that_the_manifest_lacks(msdm, data, recipe, tmp_path):
    recipe.write_text(
        RECIPE.replace("{type: class_label, column: indication, dim: 4}", "{type: bert_text}").replace(
            "{type: film, from: [tissue], at: [embedding]}",
            "{type: cross_attention, from: [tissue], at: [bottleneck]}",
        )
    )
    outcome = msdm("train", recipe, "--data", data, "--out", tmp_path / "run")
    refuses(outcome, "conditioners.tissue", "'assay'", "legal: id, indication, split")
    assert not (tmp_path / "run").exists()


SETTINGS = [
    ("train.lrate=1", "did you mean 'lr'?"),
    ("train.lr=-1", "train.lr: input should be greater than 0"),
    ("train.lr=.inf", "train.lr: input should be a finite number"),
    ("train.betas=[0.9, 1.5]", "train.betas.1: input should be less than 1"),
    ("diffusion.timesteps=1", "sample.steps: "),
    ("train.lr", "KEY.KEY=VALUE"),
    ("conditioners.morphology.mod=x", "conditioners.morphology.mod: unknown key; did you mean 'mode'?"),
    ("conditioners.morphology.type=hv_map", "did you mean 'hv_maps'?"),
    ("backbone.type=unett", "did you mean 'unet'?"),
    ("sample.solver=ddimm", "did you mean 'ddim'?"),
    ("injectors.0.type=film", "'morphology' emits a map, and injector 'film' takes a vector"),
    ("injectors.1.from=[morphology]", "tissue: no injector takes it"),
    ("injectors.1.at=[nowhere]", "nowhere"),
    ("data.crop=17", "not a multiple of 2"),
    ("backbone.groups=5", "groups"),
]


@pytest.mark.parametrize(("setting", "named"), SETTINGS, ids=[s for s, _ in SETTINGS])
def test_faults_of_the_recipe(msdm, data, recipe, tmp_path, setting, named):
    refuses(msdm("train", recipe, "--data", data, "--out", tmp_path / "run", "--set", setting), named)
    assert not (tmp_path / "run").exists()


def test_an_injector_that_does_not_take_the_condition(msdm, data, recipe, tmp_path):
    recipe.write_text(
        RECIPE.replace("type: film", "type: cross_attention").replace("[embedding]", "[bottleneck]")
    )
    outcome = msdm("train", recipe, "--data", data, "--out", tmp_path / "run")
    refuses(outcome, "injectors.1", "cross_attention", "vector", "film")


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["nosuch", "--data", "DATA", "--out", "OUT"], "no recipe 'nosuch'"),
        (["quickstar", "--data", "DATA", "--out", "OUT"], "did you mean 'quickstart'?"),
        (["RECIPE", "--data", "nowhere", "--out", "OUT"], "no data folder 'nowhere'"),
        (["RECIPE", "--data", "histology-nucle", "--out", "OUT"], "did you mean 'histology-nuclei'?"),
        (["RECIPE", "--data", "DATA", "--out", "DATA"], "is not empty"),
        (["RECIPE", "--data", "DATA", "--out", "RECIPE"], "is a file, not a folder"),
        (["RECIPE", "--data", "DATA", "--out", "OUT", "--resume"], "no checkpoint to resume"),
        (["RECIPE", "--data", "DATA", "--out", "OUT", "--device", "cuda:99"], "no device 'cuda:99'"),
        (["RECIPE", "--data", "DATA", "--out", "OUT", "--device", "gpu"], "no device 'gpu'"),
        (["RECIPE", "--data", "DATA", "--out", "OUT", "--device", "meta"], "no device 'meta'"),
        (["RECIPE", "--data", "DATA", "--out", "OUT", "--threads", "0"], "--threads"),
        (["RECIPE", "--data", "DATA", "--out", "OUT", "--seed", "1"], "No such option"),
        (["RECIPE", "--data", "DATA"], "--out"),
        ([], "RECIPE"),
    ],
)
def test_faults_of_the_command_line(msdm, data, recipe, tmp_path, words, named):
    places = {"DATA": data, "RECIPE": recipe, "OUT": tmp_path / "run"}
    refuses(msdm("train", *(places.get(w, w) for w in words)), named)
    assert not (tmp_path / "run").exists()


@pytest.fixture
def trained(msdm, data, recipe, tmp_path):
    run = tmp_path / "trained"
    assert msdm("train", recipe, "--data", data, "--out", run, "--set", "train.steps=1").code == 0
    return run


def test_faults_of_sampling(msdm, data, trained, tmp_path):
    out = tmp_path / "out"
    words = ("sample", trained, "--data", data, "--out", out)
    for extra, named in [
        (("--solver", "dimm"), "did you mean 'ddim'?"),
        (("--steps", "1001"), "1 to 1000"),
        (("--steps", "0"), "--steps"),
        (("--spacing", "trail"), "did you mean 'trailing'?"),
        (("--precision", "fp16"), "precision"),
        (("--eta", "2"), "eta"),
        (("--eta", "much"), "--eta"),
        (("--guidance", "much"), "--guidance 'much'"),
        (("--guidance", "=2"), "no name"),
        (("--guidance", "nan"), "finite number"),
        (("--guidance", "2", "--guidance", "morphology=2"), "not both"),
        (("--guidance", "morphologie=2"), "did you mean 'morphology'?"),
        (("--guidance", "colour=2"), "never dropped"),
        (("--split", "tests"), "no row of split 'tests'"),
        (("--device", "gpu"), "no device 'gpu'"),
        (("--n", "0"), "--n"),
        (("--batch", "0"), "--batch"),
        (("--data", "nowhere"), "no data folder 'nowhere'"),
        (("--out", str(data)), "is not an empty folder"),
    ]:
        refuses(msdm(*words, *extra), named)
        assert not out.exists(), extra
    refuses(msdm("sample", "demoo", "--data", data, "--out", out), "no run 'demoo'")
    refuses(msdm("sample", data, "--data", data, "--out", out), "weights.safetensors")
    (trained / "weights.safetensors").write_bytes(b"damaged")
    refuses(msdm(*words), "not a readable safetensors file")
    assert not out.exists()


def test_a_run_of_another_recipe(msdm, data, recipe, trained):
    before = {p.name: p.stat().st_mtime_ns for p in trained.iterdir()}
    words = ("train", recipe, "--data", data, "--out", trained)
    refuses(msdm(*words), "add --resume")
    other = (*words, "--resume", "--set", "train.lr=2e-4")
    refuses(msdm(*other), "another recipe", "train.lr: 0.001 -> 0.0002")
    assert {p.name: p.stat().st_mtime_ns for p in trained.iterdir()} == before


def test_a_column_that_sampling_lacks(msdm, data, trained, tmp_path):
    no_column(data)
    refuses(msdm("sample", trained, "--data", data, "--out", tmp_path / "out"), "'indication'", "legal: id")
    assert not (tmp_path / "out").exists()


def test_faults_of_the_listing(msdm):
    refuses(msdm("recipes", "quickstar"), "did you mean 'quickstart'?")
    refuses(msdm("recipes", "--diff", "msdm", "nosuch"), "no recipe 'nosuch'")
    refuses(msdm("recipes", "msdm", "--diff", "msdm", "sdm"), "leave it out")
    refuses(msdm("recipes", "--diff", "msdm"), "--diff")
    refuses(msdm("plugin"), "plugin", "see msdm-kit --help")


def test_a_mistake_in_a_process_of_its_own(process, data, recipe, tmp_path):
    started = process("train", recipe, "--data", tmp_path / "nowhere", "--out", tmp_path / "run")
    out, err = started.communicate(timeout=120)
    assert (started.returncode, out) == (2, "")
    assert re.fullmatch(r"error: no data folder '.*nowhere'.*\n", err)
