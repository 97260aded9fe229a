"""Readers of what a job goes on from: its folder may have been changed, by accident or not."""

import json
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from . import mutate
from .formats import safetensors
from .images import picture
from .target import CHEAP, SLOW, Target
from .targets_core import CLASSES, sealed, tiny
from .words import CSV


def _remains(name: str):  # type: ignore[no-untyped-def]
    """A sampling job that goes on in a folder, one file of which is changed."""

    def read(folder: Path, data: bytes) -> None:
        from msdm_kit.core.journal import Journal, read_journal
        from msdm_kit.plugins.sampling.recovery import Remains

        files = {"metadata.csv": _journal()[0], "instances.csv": INSTANCES} | {name: data}
        for kind in ("images", "nuclei"):
            files |= {f"{kind}/{id}.png": picture() for id in "ab"}
        for file, content in files.items():
            (folder / file).parent.mkdir(exist_ok=True)
            (folder / file).write_bytes(content)
        there = Remains(folder, ("nucleus",))
        there.is_final(there.rows)
        there.tidy()
        there.rewrite(there.rows, frozenset("ab"), final=False)
        left = read_journal(folder / "metadata.csv")
        assert left == there.rows, "what was written is not what is read"
        row = dict.fromkeys(left[0] if left else ("organ",), "") | {"id": "another"}
        if "another" not in {row["id"] for row in left}:
            with Journal(folder / "metadata.csv", [row["id"] for row in left]) as journal:
                journal.add(row)
            assert len(read_journal(folder / "metadata.csv")) == len(left) + 1, "the new row is lost"

    return read


INSTANCES = b"id,kind,label,class\na,nucleus,1,round\na,nucleus,2,flat\n"


@cache
def _journal() -> tuple[bytes, ...]:
    """Manifests that grew, of two pairs, whole and cut off."""
    import hashlib

    from msdm_kit.core.fields import CLASSES_HASH, hash_column
    from msdm_kit.plugins.instances import classes_hash

    digest = hashlib.sha256(picture()).hexdigest()
    columns = ("organ", hash_column("images"), hash_column("nuclei"), CLASSES_HASH, "id")
    classes = {"nucleus": {1: "round", 2: "flat"}}
    rows = [columns, ("colon", digest, digest, classes_hash(classes), "a"), ("skin", digest, digest, "", "b")]
    whole = b"".join(",".join(f'"{value}"' for value in row).encode() + b"\n" for row in rows)
    return whole, whole[:-2]


JOB: dict[str, Any] = {
    "format": 1, "versions": {"torch": "2.11.0", "msdm-kit": "0.1.0"}, "weights_sha256": "0" * 64, "seed": 0,
    "sampling": {"steps": 5, "guidance": 1.5, "keep": None},
    "mask_operations": [{"type": "elastic", "amplitude": 3}], "segmenters": [], "limits": ["area > 3"],
    "tries": 1, "outputs": 2, "plan": "1" * 64, "fields": "2" * 64, "donors": None,
}  # fmt: skip


def _job(folder: Path, data: bytes) -> None:
    from msdm_kit.core import fields
    from msdm_kit.plugins.sampling.identity import is_begun, other_versions

    (folder / fields.JOB).write_bytes(data)
    if is_begun(folder, folder / "apart", JOB):
        assert other_versions(folder, JOB).isprintable()


def _go_on(folder: Path, data: bytes) -> None:
    """As training goes on, up to its first step."""
    from msdm_kit.plugins.run import Run

    run = Run(folder)
    (folder / "checkpoints").mkdir()
    run.checkpoints.path(1).write_bytes(data)
    _to_first_step(run)


def _go_on_from_parts(folder: Path, data: bytes) -> None:
    """As `_go_on`, where tensors were split: a file of them is changed, and the checkpoint says so."""
    import hashlib

    from msdm_kit.core.checkpoint import save_tensors
    from msdm_kit.plugins.checkpoints import PARTS
    from msdm_kit.plugins.run import Run

    run, name, file = Run(folder), f"step-000001.{'0' * 16}", "shard-00001-model-00001-of-00001.safetensors"
    parts = run.checkpoints.folder / name
    parts.mkdir(parents=True)
    (parts / file).write_bytes(data)
    files = {file: hashlib.sha256(data).hexdigest()}
    _, facts = _states()[1]
    save_tensors(run.checkpoints.path(1), {}, facts | {PARTS: {"folder": name, "files": files}})
    _to_first_step(run)


def _to_first_step(run: Any) -> None:
    from msdm_kit.core.optimise import Optimiser
    from msdm_kit.plugins.training import saved_denoiser

    saved = run.claim(_recipe(), resume=True)
    assert saved is not None
    denoiser = saved_denoiser(_recipe(), saved, run)
    optimiser = Optimiser(denoiser, _recipe().train, total=3, drop={})
    optimiser.load(saved.tensors, saved.facts, saved.parts)
    run.start(_recipe(), optimiser.done, saved.facts["due"])
    run.write_weights(saved, _recipe().train)


@cache
def _recipe():  # type: ignore[no-untyped-def]
    from msdm_kit.core.recipe import Recipe

    return Recipe.model_validate(tiny({"c": CLASSES}, "film", "embedding"))


@cache
def _states() -> tuple[tuple[dict[str, Any], dict[str, Any]], ...]:
    """Tensors and facts of a run after its first step, before and after it had a gradient."""
    import torch

    from msdm_kit.core.optimise import Optimiser
    from msdm_kit.plugins.build import build_conditioners, build_denoiser
    from msdm_kit.plugins.run import run_facts

    recipe = _recipe()
    rows = [{"id": "a", "organ": "colon"}, {"id": "b", "organ": "skin"}]
    denoiser = build_denoiser(recipe, build_conditioners(recipe, rows=rows))
    optimiser = Optimiser(denoiser, recipe.train, total=3, drop={})
    found = []
    for _ in range(2):
        tensors, state = optimiser.state()
        facts = run_facts(recipe, denoiser, 1) | state | {"step": 1, "fields": ""}
        kept = {name: tensor.clone() for name, tensor in tensors.items()}
        found.append((kept, facts | {"due": ["validation"], "validation": 0.5}))
        for p in denoiser.parameters():
            p.grad = torch.ones_like(p)
        optimiser.optimizer.step()
    return tuple(found)


@cache
def _checkpoints() -> tuple[bytes, ...]:
    import tempfile

    from msdm_kit.core.checkpoint import save_tensors

    found = []
    with tempfile.TemporaryDirectory() as folder:
        for tensors, facts in _states():
            path = Path(folder) / "step.safetensors"
            save_tensors(path, tensors, facts)
            found.append(path.read_bytes())
    return tuple(found)


@cache
def _part() -> bytes:
    """The one file of a checkpoint that one process wrote as its part."""
    import tempfile

    from msdm_kit.core.parts import write_parts

    with tempfile.TemporaryDirectory() as folder:
        (name,) = write_parts(Path(folder), _states()[1][0], 0)
        return (Path(folder) / name).read_bytes()


FACTS = ("step", "fields", "conditioners", "due", "validation", "ema_updates")


def _changed(data: bytes, rng: Random) -> bytes:
    """A checkpoint with other tensors or other facts, and the SHA-256 that fits it."""
    if rng.random() < 0.15:
        return sealed(data, rng)
    import torch
    from safetensors.torch import load, save

    from msdm_kit.core import checkpoint

    try:
        tensors = load(data)
        facts = json.loads(_metadata(data)[checkpoint.KEY])
        facts.pop(checkpoint.DIGEST)
        for _ in range(rng.choice((1, 1, 2))):
            name = rng.choice(sorted(tensors))
            kind = rng.randrange(7)
            if kind == 0:
                del tensors[name]
            elif kind == 1:
                tensors[rng.choice((*mutate.NAMES[:4], name + "x", "ema.x", "optimizer.step.x"))] = (
                    tensors.pop(name)
                )
            elif kind == 2:
                tensors[name] = torch.zeros(rng.choice(((), (0,), (1,), (1, 1, 1), (3, 5))))
            elif kind == 3:
                tensors[name] = tensors[name].to(
                    rng.choice((torch.int8, torch.bool, torch.float64, torch.bfloat16))
                )
            elif kind == 4:
                tensors[name] = tensors[name] * float(rng.choice(("nan", "inf", "-1e30", "0")))
            elif kind == 5:
                facts[rng.choice(FACTS)] = mutate.values(rng)
            else:
                facts = mutate.tree(facts, rng)
        facts[checkpoint.DIGEST] = checkpoint.tensors_hash(tensors, json.dumps(facts))
        return save(tensors, {checkpoint.KEY: json.dumps(facts)})
    except Exception:
        return safetensors(data, rng)


def _metadata(data: bytes) -> dict[str, str]:
    length = int.from_bytes(data[:8], "little")
    found: dict[str, str] = json.loads(data[8 : 8 + length])["__metadata__"]
    return found


TARGETS = (
    Target("manifest of a job", lambda: list(_journal()), _remains("metadata.csv"), mutate.text(CSV)),
    Target(
        "instances of a job",
        lambda: [INSTANCES, INSTANCES[:-3]],
        _remains("instances.csv"),
        mutate.text(CSV),
    ),
    Target("job.json", lambda: [json.dumps(JOB).encode()], _job, mutate.json_bytes, CHEAP),
    Target("checkpoint, resumed", lambda: list(_checkpoints()), _go_on, _changed, SLOW),
    Target("checkpoint of parts, resumed", lambda: [_part()], _go_on_from_parts, safetensors, SLOW),
)
