"""Pictures and arrays of an export. The folder is renamed as a whole, so no file needs a name of its own."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from .base import ExportedField, Labels


def save_tiff(path: Path, array: NDArray[np.uint8] | Labels) -> None:
    """Write an image uncompressed, or labels with Deflate, which every reader of TIFF has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    compression = "tiff_adobe_deflate" if array.ndim == 2 else None
    Pillow.fromarray(array).save(path, format="TIFF", compression=compression)


def save_png(exported: ExportedField, path: Path) -> None:
    """Write the image as PNG: as the file that it is, where it is one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if exported.image_path.suffix.lower() == ".png":
        shutil.copyfile(exported.image_path, path)
    else:
        Pillow.fromarray(exported.image).save(path, format="PNG", compress_level=1)


def save_array(path: Path, array: NDArray[Any]) -> None:
    """Write a .npy file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array, allow_pickle=False)
