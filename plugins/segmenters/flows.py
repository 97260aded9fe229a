"""Cellpose's flows: what a network is trained on, and the instances that they lead to.

Cellpose is imported here and nowhere else, as late as can be: it takes seconds.
"""

import contextlib
import importlib
import importlib.metadata
import io
import logging
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...core.errors import MsdmError
from ...core.sample import Labels

Maps = NDArray[np.float32]

KEPT_BYTES = 2**29
"""Of flows that are kept: fields are trained on again and again, and the flows of one take half a second."""
_kept: OrderedDict[bytes, Maps] = OrderedDict()


def major_version() -> int:
    """Of the Cellpose that is installed.

    Raises
    ------
    MsdmError
        There is none.
    """
    try:
        return int(importlib.metadata.version("cellpose").partition(".")[0])
    except importlib.metadata.PackageNotFoundError:
        raise MsdmError("Cellpose is not installed; run: pip install 'cellpose>=4,<5'") from None


def need_version(major: int, segmenter: str, instead: str) -> None:
    """Check that Cellpose is of a major version.

    Parameters
    ----------
    major : int
    segmenter : str
        Which needs it.
    instead : str
        The segmenter for the other version.

    Raises
    ------
    MsdmError
        It is of another one.
    """
    found = major_version()
    if found != major:
        least = "3.1" if major == 3 else str(major)
        raise MsdmError(
            f"segmenter {segmenter!r} needs Cellpose {major}, and {found} is installed; run: pip install "
            f"'cellpose>={least},<{major + 1}' or take the segmenter {instead}"
        )


def cellpose(module: str) -> Any:
    """A module of Cellpose, such as ``train``, imported without what some versions print then."""
    with contextlib.redirect_stdout(io.StringIO()):
        found = importlib.import_module(f"cellpose.{module}")
    logger = logging.getLogger("cellpose")
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())  # without one, Python prints warnings to the user's screen
    return found


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Run Cellpose without its bars and warnings, and leave NumPy's global random state as it was."""
    modules = [cellpose(name) for name in ("train", "dynamics")]
    bars = [module.trange for module in modules]
    state = np.random.get_state()  # noqa: NPY002  # Cellpose seeds the global one at each epoch
    try:
        for module in modules:
            module.trange = range
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of autocast to float32 on a CPU, which does nothing
            yield
    finally:
        for module, bar in zip(modules, bars, strict=True):
            module.trange = bar
        np.random.set_state(state)  # noqa: NPY002


def targets(labels: Labels, device: torch.device) -> Maps:
    """What a network is trained on for a mask (Stringer et al., Nature Methods 18:100, 2021).

    Parameters
    ----------
    labels : ndarray (H, W) int32
        With an instance.
    device : torch.device
        Where it is computed.

    Returns
    -------
    ndarray (4, H, W) float32
        Labels 1 to n, 1 inside instances, and the flow down and right, of length 1 inside and 0 outside.
    """
    compact = renumber(labels)
    key = sha256(f"{device.type} {compact.shape}".encode() + compact.tobytes()).digest()
    found = _kept.pop(key, None)
    if found is None:
        found = cellpose("dynamics").labels_to_flows([compact], device=device)[0][2:].astype(np.float32)
    _kept[key] = found
    while sum(flow.nbytes for flow in _kept.values()) > KEPT_BYTES:
        _kept.popitem(last=False)
    return np.concatenate((np.stack((compact, compact > 0)), found)).astype(np.float32)


def instances(
    maps: Maps, *, flow_threshold: float, cellprob_threshold: float, min_size: int, device: torch.device
) -> Labels:
    """The instances that maps lead to: pixels that flow to one point are one.

    Parameters
    ----------
    maps : ndarray (3, H, W) float32
        Flow down and right, five times its length, and the logit of being in an instance.
    flow_threshold : float
        Largest mean squared difference between the flow of an instance and that of its outline; 0 keeps all.
    cellprob_threshold : float
        Least logit.
    min_size : int
        Pixels of the smallest instance that is kept.
    device : torch.device

    Returns
    -------
    ndarray (H, W) int32
        1 to n without gaps.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's, of sparse tensors
        found = cellpose("dynamics").resize_and_compute_masks(
            np.ascontiguousarray(maps[:2]),
            maps[2],
            flow_threshold=flow_threshold,
            cellprob_threshold=cellprob_threshold,
            min_size=min_size,
            device=device,
        )
    return renumber(found)


def renumber(labels: NDArray[Any]) -> Labels:
    """Labels 1 to n without gaps, in ascending order of the old ones, int32."""
    values, inverse = np.unique(labels, return_inverse=True)
    numbers = np.arange(len(values)) + int(values[0] != 0)
    return numbers[inverse].reshape(labels.shape).astype(np.int32)
