"""Instance maps in MATLAB files, as HoVer-Net (Graham et al. 2019) and the sets in its layout have them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.errors import MsdmError
from ...core.reading import read_bytes
from .base import LabelMap
from .mat5 import MatError, Matrix, NewerMatError, variables
from .reading import check_pixels, whole

MAX_MAT = 2**31
_WANTED = ("inst_map", "inst_uid", "inst_type", "type_map")


def read_mat(path: Path) -> tuple[LabelMap, dict[int, int]]:
    """The instance map of a .mat file and the type of each instance.

    Types are those of `inst_type`, whose rows (or columns: both variants are about) follow `inst_uid`;
    without `inst_uid`, the most frequent type of `type_map` within each instance; without either, rows of
    `inst_type` follow the sorted labels.

    Returns
    -------
    ndarray (H, W) int32
    dict of int -> int
        Type by label; type 0, which stands for none, is left out.

    Raises
    ------
    MsdmError
        The file is damaged, of MATLAB 7.3, has no such map, or types that do not fit it.
    """
    content = {}
    names = []
    try:
        # the map first: what it says of its size is said before types are
        for matrix in variables(read_bytes(path, MAX_MAT), _WANTED):
            names.append(matrix.name)
            if matrix.name in _WANTED:
                content[matrix.name] = _read(matrix, path)
    except NewerMatError:
        raise MsdmError(f"{path} is of MATLAB 7.3 (HDF5), which is not read; save it with -v7") from None
    except (MatError, OSError) as error:
        cause = error.strerror if isinstance(error, OSError) else str(error)
        raise MsdmError(f"{path} is no MATLAB file, or damaged ({cause:.100}); copy it again") from None
    if "inst_map" not in content:
        raise MsdmError(
            f"{path} has no inst_map, its variables are: {', '.join(sorted(names)) or 'none'}; such files "
            f"of other layouts are not read"
        )
    labels = whole(content["inst_map"], f"{path}: inst_map")
    return labels, _types(labels, content, path)


def _types(labels: LabelMap, content: Mapping[str, NDArray[Any]], path: Path) -> dict[int, int]:
    present = np.unique(labels[labels > 0])
    if "type_map" in content and "inst_uid" not in content:
        types = whole(content["type_map"], f"{path}: type_map")
        if types.shape != labels.shape:
            raise MsdmError(
                f"{path}: type_map has shape {types.shape} and inst_map {labels.shape}; they must agree"
            )
        inside = labels > 0
        pairs, count = np.unique(np.stack([labels[inside], types[inside]]), axis=1, return_counts=True)
        order = np.argsort(count, kind="stable")  # the most frequent last, so that it is the one kept
        named = dict(zip(pairs[0, order].tolist(), pairs[1, order].tolist(), strict=True))
    elif "inst_type" in content:
        kinds = whole(content["inst_type"].reshape(1, -1), f"{path}: inst_type").ravel()
        uids = (
            whole(content["inst_uid"].reshape(1, -1), f"{path}: inst_uid").ravel()
            if "inst_uid" in content
            else present
        )
        if len(kinds) != len(uids):
            raise MsdmError(
                f"{path} has {len(kinds)} rows of inst_type for {len(uids)} instances; they must agree"
            )
        named = dict(zip(uids.tolist(), kinds.tolist(), strict=True))
    else:
        return {}
    return {label: named[label] for label in present.tolist() if named.get(label)}


def _read(matrix: Matrix, path: Path) -> NDArray[Any]:
    if len(matrix.shape) != 2 or not matrix.numeric:
        raise MsdmError(
            f"{path}: {matrix.name} has shape {matrix.shape}, and legal are two axes of real numbers"
        )
    if 0 not in matrix.shape:  # types of a field without instances
        check_pixels((matrix.shape[0], matrix.shape[1]), f"{path}: {matrix.name}")
    return matrix.read()
