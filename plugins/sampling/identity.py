"""What makes two sampling jobs the same one: all that its pairs depend on, in a file of its folder."""

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...core.dataset import FieldDataset
from ...core.errors import MsdmError
from ...core.fields import IMAGES, JOB, has_file, locate, mask_folder
from ...core.files import file_hash, is_new, write_text
from ...core.reading import parse_json, read_text
from ...core.recipe import SampleSection
from ..filtering import Limit
from ..instances import classes_hash
from ..mask_operations.apply import Operation
from ..new_folder import check_new
from ..segmenters.base import Segmenter
from ..targets import Targets

FORMAT = 1
"""Of what a job writes; another one cannot be gone on with."""
VERSIONS = "versions"
_VERSION = re.compile(r"[\w.+-]{1,40}")
_SHOWN = 60
"""Characters of a setting in a message at most."""


def identity(
    targets: Targets,
    *,
    weights_sha256: str,
    settings: SampleSection,
    operations: Sequence[Operation],
    limits: Sequence[Limit],
    tries: int,
    segmenters: Sequence[Segmenter],
    seed: int,
    versions: Mapping[str, str],
) -> dict[str, Any]:
    """All that the pairs of a job depend on, as JSON.

    Where the run and the data lie does not count, nor device, batch, threads, processes and memory. Versions
    of packages are noted, and may change.

    Parameters
    ----------
    targets : Targets
        Their fields count with their manifest rows, classes and files, by hash.
    weights_sha256, settings, operations, limits, tries, segmenters, seed
        As the job was given them.
    versions : mapping package -> version
        Of those that compute.

    Raises
    ------
    MsdmError
        A field's file is gone.
    """
    donors = None if targets.donors is None else targets.donors.dataset
    return {
        "format": FORMAT,
        VERSIONS: dict(versions),
        "weights_sha256": weights_sha256,
        "seed": seed,
        "sampling": settings.model_dump(mode="json", exclude={"memory", "mask_operations"}),
        "mask_operations": [operation.settings for operation in operations],
        "segmenters": [
            {
                "type": type(segmenter).__name__,
                "kind": segmenter.kind,
                "weights_sha256": segmenter.weights_sha256,
                **segmenter.config.model_dump(mode="json"),
            }
            for segmenter in segmenters
        ],
        "limits": [str(limit) for limit in limits],
        "tries": tries,
        "outputs": len(targets.outputs),
        # who takes what from whom, as --split, --select, --versions and recombination say
        "plan": _sha256([asdict(output) for output in targets.outputs]),
        "fields": _fields(targets.dataset, targets),
        "donors": None if donors is None else _fields(donors, None),
    }


def is_begun(folder: Path, apart: Path | None, job: Mapping[str, Any]) -> bool:
    """Whether a folder is that of this job already.

    Parameters
    ----------
    folder : Path
        Of the pairs.
    apart : Path or None
        Of the rejected ones, where there is a filter.
    job : mapping
        From `identity`.

    Returns
    -------
    bool
        False: the folders are new or empty, but for what a start that was killed left.

    Raises
    ------
    MsdmError
        A folder holds something else, or another job: the first setting that differs is named.
    """
    if not (folder / JOB).is_file():
        if not is_new(folder):
            check_new(folder)
        if apart is not None:
            check_new(apart)
        return False
    there, here = ({**one, VERSIONS: None} for one in (_read(folder), json.loads(json.dumps(job))))
    differs = _difference(there, here)
    if differs:
        raise MsdmError(
            f"{folder} holds another job: {differs}; choose another folder, or give what that job was given"
        )
    return True


def _read(folder: Path) -> dict[str, Any]:
    try:
        there = parse_json(read_text(folder / JOB))
    except (OSError, ValueError):
        there = None
    if not isinstance(there, dict):
        raise MsdmError(
            f"{folder / JOB} is damaged: what job {folder} is of is not known; choose another folder"
        )
    return there


def other_versions(folder: Path, job: Mapping[str, Any]) -> str:
    """What to tell of a job that goes on with other versions of packages than it was begun with.

    Parameters
    ----------
    folder : Path
        In which the job `is_begun`.
    job : mapping
        From `identity`.

    Returns
    -------
    str
        Empty where they are the same.
    """
    there, here = _read(folder).get(VERSIONS), job[VERSIONS]
    begun = {}
    for package, version in here.items():
        found = there.get(package) if isinstance(there, dict) else None
        if found != version:
            legal = isinstance(found, str) and _VERSION.fullmatch(found)
            begun[package] = found if legal else "of an unknown version"
    if not begun:
        return ""
    then = ", ".join(f"{package} {version}" for package, version in begun.items())
    now = ", ".join(f"{package} {here[package]}" for package in begun)
    return (
        f"the pairs that are there were painted with {then}, and the rest will be with {now}: for pairs that "
        f"are all alike, choose another folder"
    )


def begin(folder: Path, job: Mapping[str, Any]) -> None:
    """Write the file that says what job the folder is of.

    Raises
    ------
    MsdmError
        It cannot be written.
    """
    write_text(folder / JOB, json.dumps(job, indent=2) + "\n")


_WORDS = {
    "format": "it was begun by another version of msdm-kit",
    "weights_sha256": "its pairs are painted by another model, or by other weights of this one",
    "plan": "other fields are painted, or take their colours and metadata from others",
    "fields": "the manifest rows, images or masks of the data have changed, or are others",
    "donors": "the fields that give colours and metadata have changed, or are others",
}
"""What differs, where a value says nothing to a reader."""
_NAMES = {"outputs": "the number of pairs", "tries": "the number of tries"}
"""What a setting is to a reader, where its name does not say it."""


def _difference(there: Mapping[str, Any], here: Mapping[str, Any], above: str = "") -> str:
    """The first setting that differs and both values, in words; empty where none does."""
    for key in dict.fromkeys((*here, *there)):
        a, b, path = there.get(key), here.get(key), f"{above}{key}"
        if a == b:
            continue
        if isinstance(a, dict) and isinstance(b, dict):
            return _difference(a, b, f"{path}.")
        if path in _WORDS:
            return _WORDS[path]
        return f"{_NAMES.get(path, path)} is {_value(a)} there and {_value(b)} here"
    return ""


def _value(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 4]} ..."


def _fields(dataset: FieldDataset, targets: Targets | None) -> str:
    """SHA-256 of the manifest rows, the classes and the files of fields."""
    folders = [dataset.root / name for name in (IMAGES, *map(mask_folder, dataset.kinds))]

    def told(row: Mapping[str, str]) -> list[Any]:
        id = row["id"]
        classes = "" if targets is None or targets.classes is None else classes_hash(targets.classes.of(id))
        files = [file_hash(locate(folder, id)) if has_file(folder, id) else "" for folder in folders]
        return [row, classes, files]

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return _sha256([*pool.map(told, dataset.rows)])


def _sha256(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
