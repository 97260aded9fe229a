"""Readers of data folders, recipes and weights."""

import json
import struct
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from . import mutate
from .formats import png, safetensors, tiff
from .images import labels_files, picture_files
from .target import CHEAP, FILE, SLOW, Target
from .words import CSV, YAML

BIG = 2 * 2**30
"""A picture of Pillow's most pixels, 89 million, takes 1.3 GiB with its copies."""


def _image(folder: Path, data: bytes) -> None:
    from msdm_kit.core.images import read_image

    (folder / "a.png").write_bytes(data)
    read_image(folder / "a.png")


def _labels(folder: Path, data: bytes) -> None:
    from msdm_kit.core.images import read_labels

    (folder / "a.tif").write_bytes(data)
    read_labels(folder / "a.tif")


def _picture(folder: Path, data: bytes) -> None:
    from msdm_kit.core.errors import MsdmError
    from msdm_kit.plugins.importers.reading import picture_size, read_label_map, read_picture

    (folder / "a.png").write_bytes(data)
    try:
        read_picture(folder / "a.png")
    except MsdmError:
        read_label_map(folder / "a.png")
    picture_size(folder / "a.png")


def _field_masks(folder: Path, data: bytes) -> None:
    from msdm_kit.plugins.field_masks import read_field_masks

    (folder / "a.tif").write_bytes(data)
    read_field_masks([("nucleus", folder / "a.tif")], folder)


def _manifest(folder: Path, data: bytes) -> None:
    from msdm_kit.core.manifest import read_manifest, select_split

    (folder / "metadata.csv").write_bytes(data)
    select_split(read_manifest(folder / "metadata.csv"), "train", folder / "metadata.csv")


def _instances(folder: Path, data: bytes) -> None:
    from msdm_kit.plugins.instance_index import classes_at, index_instances
    from msdm_kit.plugins.instances import read_instances

    (folder / "instances.csv").write_bytes(data)
    whole = read_instances(folder)
    spans, _ = index_instances(folder, list(whole), ("cell", "nucleus"))
    for id, found in whole.items():
        assert classes_at(folder, id, spans.get(id, ())) == found, "two readers disagree"


MANIFEST = b"id,split,organ\na,train,colon\nb,val,skin\n"


def _selection(folder: Path, data: bytes) -> None:
    from msdm_kit.plugins.selection_file import load_selection

    (folder / "metadata.csv").write_bytes(MANIFEST)
    (folder / "fields.csv").write_bytes(b"id,area\na,3\n")
    (folder / "fields.selection.json").write_bytes(data)
    load_selection(folder / "fields.csv", folder)


def _selection_seeds() -> list[bytes]:
    import hashlib

    facts = {
        "format": "msdm-kit selection 1", "data": "/data", "where": "area > 3", "split": None, "sort": None,
        "manifest_sha256": hashlib.sha256(MANIFEST).hexdigest(), "asked": 2, "matching": 1, "selected": 1,
        "csv_sha256": "0",
    }  # fmt: skip
    return [json.dumps(facts).encode(), json.dumps(facts | {"manifest_sha256": "0"}).encode()]


def _recipe(folder: Path, data: bytes) -> None:
    from msdm_kit.plugins.check import check_plugins
    from msdm_kit.plugins.recipe_files import dump_recipe, load_recipe

    (folder / "r.yaml").write_bytes(data)
    recipe = load_recipe(folder / "r.yaml")
    dump_recipe(recipe)
    check_plugins(recipe)


def _recipe_seeds() -> list[bytes]:
    from msdm_kit.plugins.recipe_files import dump_recipe, load_recipe

    return [
        b"extends: quickstart\ntrain: {lr: 1e-4, steps: 10}\n",
        b"extends: msdm\nname: mine\nsample: &s {steps: 5, guidance: 1.5}\ntrain:\n  lr: 0.001\n",
        dump_recipe(load_recipe("quickstart")).encode(),
    ]


def _override(folder: Path, data: bytes) -> None:
    from msdm_kit.plugins.recipe_files import load_recipe

    load_recipe(_small(), [data.decode("utf-8", "replace")])


@cache
def _small() -> Path:
    from msdm_kit.plugins import recipe_files

    return Path(recipe_files.__file__).parent / "recipes" / "quickstart.yaml"


def _plan(folder: Path, data: bytes) -> None:
    from msdm_kit.plugins.experiment.plan_files import dump_plan, load_plan

    (folder / "p.yaml").write_bytes(data)
    dump_plan(load_plan(folder / "p.yaml"))


def _plan_seeds() -> list[bytes]:
    from msdm_kit.plugins import recipe_files

    folder = Path(recipe_files.__file__).parent / "plans"
    return [path.read_bytes() for path in sorted(folder.glob("*.yaml"))]


def _operations(folder: Path, data: bytes) -> None:
    from msdm_kit.plugins.mask_operations.apply import load_operations

    (folder / "o.yaml").write_bytes(data)
    load_operations([str(folder / "o.yaml")])


def _where(folder: Path, data: bytes) -> None:
    from msdm_kit.core.errors import MsdmError
    from msdm_kit.plugins.expressions import condition
    from msdm_kit.plugins.vocabulary import Vocabulary

    rows = [{"id": "a", "organ": "colon"}, {"id": "b", "organ": "skin"}]
    said = ""
    try:
        condition(data.decode("utf-8", "replace"), Vocabulary.of(rows, ("cell", "nucleus")))
    except MsdmError as error:
        said = str(error)
    if said:
        raise MsdmError(said)  # without its cause: Python's parser has a MemoryError where its stack ends


def _weights(folder: Path, data: bytes) -> None:
    from msdm_kit.core.checkpoint import load_tensors

    (folder / "w.safetensors").write_bytes(data)
    load_tensors(folder / "w.safetensors")


def _weights_seeds() -> list[bytes]:
    import tempfile

    import torch

    from msdm_kit.core.checkpoint import save_tensors

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "w.safetensors"
        tensors = {"a": torch.zeros(2, 3), "b": torch.zeros(0, dtype=torch.int64), "c": torch.tensor(1.0)}
        save_tensors(path, tensors, {"recipe": {"name": "x"}, "step": 3})
        return [path.read_bytes(), unsealed(path.read_bytes())]


def _run(folder: Path, data: bytes) -> None:
    from msdm_kit.plugins.pipeline import Pipeline

    (folder / "weights.safetensors").write_bytes(data)
    Pipeline.load(folder, device="cpu")


def _resume(folder: Path, data: bytes) -> None:
    from msdm_kit.core.recipe import Recipe
    from msdm_kit.plugins.run import Run

    (folder / "checkpoints").mkdir()
    (folder / "checkpoints/step-000001.safetensors").write_bytes(data)
    Run(folder).claim(Recipe.model_validate(tiny({"c": CLASSES}, "film", "embedding")), resume=True)


CLASSES = {"type": "class_label", "column": "organ"}


@cache
def run_files() -> tuple[bytes, ...]:
    """Weights of the smallest networks, with what they carry."""
    import tempfile

    from msdm_kit.core.checkpoint import save_tensors
    from msdm_kit.core.recipe import Recipe
    from msdm_kit.plugins.build import build_conditioners, build_denoiser
    from msdm_kit.plugins.run import run_facts

    found = []
    with tempfile.TemporaryDirectory() as folder:
        for conditioners, injector in (
            ({"c": CLASSES}, ("film", "embedding")),
            ({"h": {"type": "hv_maps", "masks": ["nucleus"]}}, ("spade", "decoder")),
            ({"t": {"type": "bert_text", "template": "{organ}"}}, ("cross_attention", "bottleneck")),
            ({"s": {"type": "rgb_statistics", "masks": ["nucleus"]}}, ("concat", "input")),
        ):
            recipe = Recipe.model_validate(tiny(conditioners, *injector))
            rows = [{"id": "a", "organ": "colon"}, {"id": "b", "organ": "skin"}]
            try:
                denoiser = build_denoiser(recipe, build_conditioners(recipe, rows=rows))
            except Exception as error:
                raise RuntimeError(f"{conditioners}: {error}") from error
            path = Path(folder) / "weights.safetensors"
            facts = run_facts(recipe, denoiser, 1) | {
                "fields": "",
                "due": [],
                "validation": None,
                "ema_updates": 1,
            }
            save_tensors(path, denoiser.state_dict(), facts)
            found.append(path.read_bytes())
    return tuple(found)


def unsealed(data: bytes) -> bytes:
    """A file of ours without its SHA-256, which a change would not fit; weights from elsewhere have none."""
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    facts = json.loads(header["__metadata__"]["msdm_kit"])
    del facts["sha256"]
    header["__metadata__"]["msdm_kit"] = json.dumps(facts)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def sealed(data: bytes, rng: Random) -> bytes:
    """A changed file of ours with the SHA-256 that fits it, as somebody with ill intent would write it."""
    from safetensors.torch import load, save

    from msdm_kit.core import checkpoint

    changed = safetensors(data, rng)
    try:
        (length,) = struct.unpack("<Q", changed[:8])
        facts = json.loads(json.loads(changed[8 : 8 + length])["__metadata__"]["msdm_kit"])
        tensors = load(changed)
        facts["sha256"] = checkpoint.tensors_hash(tensors, json.dumps(facts))
        return save(tensors, {"msdm_kit": json.dumps(facts)})
    except Exception:
        return changed


def tiny(conditioners: dict[str, Any], injector: str, at: str) -> dict[str, Any]:
    return {
        "name": "tiny",
        "data": {"masks": ["nucleus"], "crop": 16},
        "conditioners": conditioners,
        "injectors": [{"type": injector, "from": list(conditioners), "at": [at]}],
        "backbone": {
            "type": "unet", "channels": 8, "multipliers": [1, 2], "blocks": 1, "attention_strides": [],
            "head_channels": 8, "groups": 4,
        },
        "train": {"steps": 3, "batch": 2},
    }  # fmt: skip


def _metrics(folder: Path, data: bytes) -> None:
    from msdm_kit.plugins.report.train_report import train_report
    from msdm_kit.plugins.run import Run

    run = Run(folder)
    run.metrics.write_bytes(data)
    run.recipe_file.write_bytes(b"name: x\n")
    run.seconds()
    train_report(run)


def _cut_metrics(folder: Path, data: bytes) -> None:
    from msdm_kit.plugins.recipe_files import load_recipe
    from msdm_kit.plugins.run import Run

    run = Run(folder)
    run.metrics.write_bytes(data)
    run.seconds()
    run.start(_recipe_once(load_recipe), 2)


@cache
def _recipe_once(load: Any) -> Any:
    return load(_small())


METRICS = b"".join(
    json.dumps(
        {"step": k, "loss": 0.5, "lr": 1e-4, "gradient_norm": 1.0, "images": 2 * k, "seconds": 0.1 * k}
    ).encode() + b"\n"
    for k in (1, 2, 3)
) + b'{"step": 3, "validation": {"t=0.125": 0.5}}\n'  # fmt: skip

TARGETS = (
    Target("PNG", lambda: picture_files("PNG"), _image, png, FILE, BIG),
    Target("TIFF", labels_files, _labels, tiff, FILE, BIG),
    Target(
        "pictures of other tools",
        lambda: picture_files("BMP", "JPEG", "PNG", "TIFF"),
        _picture,
        mutate.raw,
        FILE,
        BIG,
    ),
    Target("OME-TIFF of paint-field", labels_files, _field_masks, tiff, FILE, BIG),
    Target("manifest", lambda: [MANIFEST, b'id,"a ""b"""\n"x y",1\n'], _manifest, mutate.text(CSV), CHEAP),
    Target(
        "instances.csv",
        lambda: [b"id,kind,label,class\na,nucleus,1,round\na,cell,2,\nb,cell,1,flat\n"],
        _instances,
        mutate.text(CSV),
        CHEAP,
    ),
    Target("selection", _selection_seeds, _selection, mutate.json_bytes, CHEAP),
    Target("recipe", _recipe_seeds, _recipe, mutate.text(YAML), FILE),
    Target(
        "override",
        lambda: [b"train.lr=1e-4", b"conditioners.a={type: hv_maps}", b"sample.guidance=2"],
        _override,
        mutate.text(YAML),
        FILE,
    ),
    Target("plan", _plan_seeds, _plan, mutate.text(YAML), FILE),
    Target(
        "mask operations",
        lambda: [b"mask_operations: [{type: flip_turn}, {type: elastic, amplitude: 3}]\n"],
        _operations,
        mutate.text(YAML),
        FILE,
    ),
    Target(
        "where",
        lambda: [
            b"organ == 'colon' and count_nucleus > 3",
            b"mean(nucleus.area) / 2 < 1e3 or organ not in ('a', 'b')",
        ],
        _where,
        mutate.text(YAML),
        CHEAP,
    ),
    Target("safetensors", _weights_seeds, _weights, safetensors, CHEAP),
    Target("run", lambda: list(map(unsealed, run_files())), _run, safetensors, SLOW),
    Target("checkpoint", lambda: list(run_files()[:1]), _resume, sealed, FILE),
    Target("metrics, report", lambda: [METRICS], _metrics, mutate.text(YAML), SLOW // 4),
    Target("metrics, resume", lambda: [METRICS], _cut_metrics, mutate.text(YAML), FILE),
)
