"""Cellpose's `_seg.npy`: a pickled dictionary.

Loading a pickle runs what it names, so this one may name arrays only.

The file's layout: https://cellpose.readthedocs.io/en/latest/outputs.html
"""

import importlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from ...core.errors import MsdmError
from .base import LabelMap, Picture
from .reading import check_pixels, check_size, whole

MAX_SEG = 2**31
# What pickles of arrays name, in NumPy 1 and 2.
_LEGAL = {
    **{
        (f"numpy.{core}.{module}", name): (f"numpy.{home}.{module}", name)
        for core in ("core", "_core")
        for module, name in (
            ("multiarray", "_reconstruct"),
            ("multiarray", "scalar"),
            ("numeric", "_frombuffer"),
        )
        for home in ("_core" if int(np.__version__.split(".")[0]) >= 2 else "core",)
    },
    ("numpy", "ndarray"): ("numpy", "ndarray"),
    ("numpy", "dtype"): ("numpy", "dtype"),
    ("_codecs", "encode"): ("_codecs", "encode"),
}


class _Arrays(pickle.Unpickler):
    """Makes arrays, numbers, texts, lists and dictionaries, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _LEGAL:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        module, name = _LEGAL[module, name]
        return getattr(importlib.import_module(module), name)


def read_seg(path: Path) -> tuple[LabelMap, Picture | None]:
    """Masks of a `_seg.npy`, and its picture where it holds an RGB one of 8 bits.

    Parameters
    ----------
    path : Path
        Of a file that the user said may be read. Even so, only arrays are made of it.

    Raises
    ------
    MsdmError
        It is damaged, names anything but arrays, or has no masks.
    """
    check_size(path, MAX_SEG, "save the masks as PNG instead")
    try:
        with open(path, "rb") as stream:
            version = np.lib.format.read_magic(stream)
            if version[0] == 1:
                np.lib.format.read_array_header_1_0(stream)
            else:
                np.lib.format.read_array_header_2_0(stream)
            content = _Arrays(stream).load()
        content = content.item() if isinstance(content, np.ndarray) else content
        masks = np.asarray(content["masks"])
    # A pickle, even of arrays only, can raise anything.
    except Exception as error:
        cause = " ".join(str(error).split()) or type(error).__name__
        raise MsdmError(
            f"{path} is no _seg.npy of Cellpose, or not safe to read ({cause:.120}); save the masks as PNG "
            "instead"
        ) from None
    labels = whole(masks, f"{path}: masks")
    check_pixels((labels.shape[0], labels.shape[1]), f"{path}: masks")
    image = content.get("img")
    usable = isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.shape == (*labels.shape, 3)
    return labels, image if usable else None
