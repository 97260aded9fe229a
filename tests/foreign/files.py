"""The fixtures, laid out as the tools lay them out, and the truth about them."""

import gzip
import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

HERE = Path(__file__).parent
A, B, C = "dsb18_6c67b78e", "dsb18_00ae65c1", "dsb18_8f27ebc7"
# Pictures that are kept once: where they belong, and where they are.
SHARED = {
    f"cellpose/train/{B}.png": f"coco/images/{B}.png",
    "consep/Train/Images/train_2.png": f"coco/images/{C}.png",
    "nuinsseg/human unknown organ/tissue images/human_unknown_organ_01.png": f"coco/images/{C}.png",
}


def unpack(target: Path) -> Path:
    """Copy the fixtures; `pictures/` there holds the pictures of A, B and C under their own names."""
    shutil.copytree(HERE, target, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    for path in target.rglob("*.gz"):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    for name, source in SHARED.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(target / source, target / name)
    (target / "pictures").mkdir()
    shutil.copy(target / "consep/Train/Images/train_1.png", target / f"pictures/{A}.png")
    for name in (B, C):
        shutil.copy(target / f"coco/images/{name}.png", target / f"pictures/{name}.png")
    return target


def truth(id: str, kind: str) -> NDArray[np.uint16]:
    """The expected label map of a field."""
    return np.asarray(
        Image.open(HERE / "expected" / {"nucleus": "nuclei", "cell": "cells"}[kind] / f"{id}.png")
    )


def same_instances(found: NDArray, wanted: NDArray) -> bool:
    """Whether two label maps are equal up to renumbering: IoU 1 for every instance, and none more."""
    if found.shape != wanted.shape:
        return False
    pairs = np.unique(np.stack([found.ravel(), wanted.ravel()]), axis=1)
    one_to_one = len(set(pairs[0])) == len(set(pairs[1])) == pairs.shape[1]
    return bool(one_to_one and ((found == 0) == (wanted == 0)).all())


def load(path: Path) -> NDArray:
    return np.asarray(Image.open(path))
