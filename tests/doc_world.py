"""What the pages of the documentation take as given: small data sets, a run of two steps, foreign files."""

import json
import shutil
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open

from msdm_kit.cli.main import run
from msdm_kit.core.images import save_image, save_labels
from msdm_kit.core.manifest import write_manifest

from .golden.weights import weights
from .packages import TOY

SIDE = 64
SPLITS = ("train", "train", "train", "train", "val", "test_mixed", "test_mixed", "test_columnar")
CENTRES = ((18, 17), (44, 22), (30, 46))
CLASSES = ("Neoplastic", "Inflammatory", "Neoplastic")
SETTINGS = (*TOY, "train.workers=0", "train.precision=fp32")
TINY_SEGMENTER = "scratch-small:epochs=11,crops=1,crop=32,channels=[4,8]"


def set_options(*settings: str) -> list[str]:
    """The options that change a recipe so."""
    return [word for text in settings for word in ("--set", text)]


def field(i: int, grow: float = 1.0) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """An image in [-1, 1] of three elongated cells, 0.94 eccentric in every second field, and their masks."""
    y, x = np.mgrid[:SIDE, :SIDE]
    cells, nuclei = np.zeros((SIDE, SIDE), np.int32), np.zeros((SIDE, SIDE), np.int32)
    a, b = (13.0, 4.5) if i % 2 else (9.0, 8.0)
    for k, (row, column) in enumerate(CENTRES, 1):
        distance = np.hypot((y - row - i % 3) / (a * grow), (x - column + i % 4) / (b * grow))
        cells[distance < 1], nuclei[distance < 0.6] = k, k
    tint = np.array([0.05, -0.1, 0.08])[:, None, None] * (i % 4)
    image = np.stack([0.8 - 0.4 * (cells > 0), 0.7 - 0.8 * (nuclei > 0), 0.8 - 0.1 * (cells > 0)]) - tint
    noise = 0.06 * np.random.default_rng(i).standard_normal(image.shape)
    return np.clip(image + noise, -1, 1).astype(np.float32), {"cell": cells, "nucleus": nuclei}


def write_fields(
    root: Path,
    *,
    cells: bool = True,
    grow: float = 1.0,
) -> None:
    """A data set in the documented layout, with classes of its nuclei that are PanNuke's."""
    rows, lines = [], ["id,kind,label,class"]
    for i, split in enumerate(SPLITS):
        image, masks = field(i, grow)
        row = {"id": f"f{i}", "split": split, "assay": ("HER2", "H&E")[i // 2 % 2], "pixel_size_um": "0.5"}
        row |= {"indication": ("breast", "lung")[i % 2], "stain": "brown", "organ": "colon"}
        save_image(root / "images" / f"f{i}.png", image)
        save_labels(root / "nuclei" / f"f{i}.png", masks["nucleus"])
        if cells:
            save_labels(root / "cells" / f"f{i}.png", masks["cell"])
        rows.append(row)
        lines += [f"f{i},nucleus,{k},{name}" for k, name in enumerate(CLASSES, 1)]
    write_manifest(root / "metadata.csv", rows)
    (root / "instances.csv").write_text("\n".join(lines) + "\n")


class World:
    """Makes each thing when it is first asked for, once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)

    def _run(self, *words: object) -> None:
        assert run([str(w) for w in words]) == 0, words

    def put(self, thing: str, at: Path) -> None:
        """Copy a thing to where a page expects it."""
        source: Path = getattr(self, thing)
        at.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, at)
        else:
            shutil.copy(source, at)

    @cached_property
    def fields(self) -> Path:
        write_fields(self.root / "fields")
        return self.root / "fields"

    @cached_property
    def other_annotator(self) -> Path:
        write_fields(self.root / "other", grow=0.9)
        return self.root / "other"

    @cached_property
    def nuclei_alone(self) -> Path:
        write_fields(self.root / "nuclei_alone", cells=False)
        return self.root / "nuclei_alone"

    @cached_property
    def trained(self) -> Path:
        out = self.root / "trained"
        self._run("train", "quickstart", "--data", self.fields, "--out", out, *set_options(*SETTINGS))
        return out

    @cached_property
    def painted(self) -> Path:
        out = self.root / "painted"
        self._run("sample", self.trained, "--data", self.fields, "--split", "all", "--out", out)
        return out

    def _exported(self, format: str) -> Path:
        out = self.root / format
        self._run("data", "export", self.fields, out, "--format", format, "--mask-kind", "nucleus")
        return out

    @cached_property
    def stardist(self) -> Path:
        return self._exported("stardist")

    @cached_property
    def pannuke(self) -> Path:
        return self._exported("pannuke")

    @cached_property
    def cellpose_masks(self) -> Path:
        """Label maps without their pictures, named as Cellpose names them."""
        from PIL import Image

        folder = self.root / "masks"
        folder.mkdir()
        for i in range(len(SPLITS)):
            labels = field(i)[1]["nucleus"].astype(np.uint16)
            Image.fromarray(labels).save(folder / f"f{i}_cp_masks.png")
        return folder

    @cached_property
    def pictures(self) -> Path:
        shutil.copytree(self.fields / "images", self.root / "pictures")
        return self.root / "pictures"

    @cached_property
    def table(self) -> Path:
        path = self.root / "assays.csv"
        path.write_text("id,assay\n" + "".join(f"f{i},HER2\n" for i in range(len(SPLITS))))
        return path

    @cached_property
    def ids(self) -> Path:
        """A selection without anything beside it."""
        path = self.root / "ids.csv"
        path.write_text("id\nf1\nf3\n")
        return path

    @cached_property
    def outlines(self) -> Path:
        out = self.root / "qupath"
        self._run("data", "export", self.fields, out, "--format", "qupath")
        return out / "f0.geojson"

    def _mask(self, kind: str) -> Path:
        import tifffile

        path = self.root / f"{kind}.tif"
        tifffile.imwrite(path, field(0)[1][kind].astype(np.uint16))
        return path

    @cached_property
    def nucleus_mask(self) -> Path:
        return self._mask("nucleus")

    @cached_property
    def cell_mask(self) -> Path:
        return self._mask("cell")

    @cached_property
    def segmenter(self) -> Path:
        out = self.root / "segmenter"
        self._run("segment", "train", self.fields, out, "--kind", "nucleus", "--segmenter", TINY_SEGMENTER)
        return out

    def _checkpoint(self, name: str) -> Path:
        golden = Path(__file__).parent / "golden" / f"{name}.safetensors"
        with safe_open(golden, "pt") as file:
            state = json.loads(file.metadata()["state"])
        path = self.root / f"{name}.pt"
        torch.save({k: torch.from_numpy(w) for k, w in weights(state).items()}, path)
        return path

    @cached_property
    def sdm_checkpoint(self) -> Path:
        return self._checkpoint("hv4_cosine")

    @cached_property
    def sdm_checkpoint_of_16_channels(self) -> Path:
        return self._checkpoint("guide16_linear")
