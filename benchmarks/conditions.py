"""HV maps: time of every mode, against HoVer-Net's own loop and MONAI's, and the difference from each.

    python -m benchmarks.conditions [--hovernet PATH] [--side 512] [--cells 400] [--repeats 10] [--threads 1]

PATH is a checkout of https://github.com/vqdang/hover_net, whose `gen_instance_hv_map` is imported as it is;
of what that imports, what it does not use (cv2, matplotlib) is stood in for where it is missing, and so are
modules that scipy has since moved. MONAI's `ComputeHoVerMaps` joins in where MONAI is installed. All in one
process, interleaved; ratios are medians of ratios. A difference is the largest, over both maps.
"""

import argparse
import importlib
import statistics
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from msdm_kit.conditioners.hv import HVMode, hv_maps

from .timing import head, interleaved, machine, row, speedup

Maps = Callable[[], NDArray[np.float32]]
MARGIN = 4


def field(side: int, cells: int) -> NDArray[np.int32]:
    """A grid of ellipses of varying size and shape, none touching another or the rim.

    HoVer-Net's loop looks two pixels beyond each cell, and expects them to be there.
    """
    rng = np.random.default_rng(0)
    labels = np.zeros((side, side), np.int32)
    y, x = np.mgrid[:side, :side]
    per_row = int(np.ceil(cells**0.5))
    step = (side - 2 * MARGIN) / per_row
    for k in range(cells):
        row, column = divmod(k, per_row)
        a, b = rng.uniform(0.25, 0.48, size=2) * step
        top, left = MARGIN + (row + 0.5) * step, MARGIN + (column + 0.5) * step
        labels[((y - top) / a) ** 2 + ((x - left) / b) ** 2 < 1] = k + 1
    return labels


def hovernet(folder: str | Path) -> Callable[[NDArray[np.int32]], NDArray[np.float32]]:
    """HoVer-Net's own maps (2, H, W) of labels, from a checkout.

    Raises
    ------
    SystemExit
        It is no such folder.
    """
    folder = Path(folder).resolve()
    if not (folder / "models" / "hovernet" / "targets.py").is_file():
        sys.exit(f"{folder} is no checkout of HoVer-Net: it has no models/hovernet/targets.py")
    from scipy import ndimage

    for name in ("cv2", "matplotlib", "matplotlib.pyplot", "matplotlib.cm"):
        try:
            importlib.import_module(name)
        except ImportError:
            sys.modules[name] = ModuleType(name)
    matplotlib: Any = sys.modules["matplotlib"]
    matplotlib.cm, matplotlib.pyplot = sys.modules["matplotlib.cm"], sys.modules["matplotlib.pyplot"]
    for name in ("measurements", "filters", "interpolation"):
        sys.modules.setdefault(f"scipy.ndimage.{name}", ndimage)
        if not hasattr(ndimage, name):
            setattr(ndimage, name, ndimage)
    sys.path.insert(0, str(folder))
    warnings.simplefilter("ignore")  # of its use of names that scipy and scikit-image have since deprecated
    targets = importlib.import_module("models.hovernet.targets")

    def maps(labels: NDArray[np.int32]) -> NDArray[np.float32]:
        out: NDArray[np.float32] = targets.gen_instance_hv_map(labels, labels.shape)
        return np.ascontiguousarray(out.transpose(2, 0, 1))

    return maps


def monai() -> Callable[[NDArray[np.int32]], NDArray[np.float32]] | None:
    """MONAI's own maps (2, H, W) of labels; None where it is not installed."""
    try:
        from monai.transforms import ComputeHoVerMaps
    except ImportError:
        return None
    transform = ComputeHoVerMaps()
    return lambda labels: np.asarray(transform(labels[None]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hovernet", metavar="PATH", help="checkout of HoVer-Net")
    parser.add_argument("--side", type=int, default=512, help="pixels")
    parser.add_argument("--cells", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    labels = field(args.side, args.cells)
    peers = {"HoVer-Net": hovernet(args.hovernet) if args.hovernet else None, "MONAI": monai()}
    present = {name: peer for name, peer in peers.items() if peer is not None}
    calls: dict[str, Maps] = {name: partial(peer, labels) for name, peer in present.items()}
    calls |= {f"ours, {mode}": partial(hv_maps, labels, mode) for mode in get_args(HVMode)}

    share = f"{(labels > 0).mean():.0%} foreground"
    print(f"{machine()}, numpy {np.__version__}; {labels.shape}, {labels.max()} instances, {share}\n")
    columns = [c for name in present for c in (f"times faster than {name}", f"difference from {name}")]
    head("what", "median, ms", *columns)
    seconds = interleaved(calls, args.repeats)
    maps = {name: call() for name, call in calls.items()}
    for name, times in seconds.items():
        cells = [f"{1000 * statistics.median(times):.1f}"]
        for peer in present:
            cells += [f"{speedup(seconds[peer], times):.1f}", f"{np.abs(maps[name] - maps[peer]).max():.1g}"]
        row(name, *cells)


if __name__ == "__main__":
    main()
