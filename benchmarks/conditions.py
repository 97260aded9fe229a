"""Time of HV maps: 512 x 512 pixels, 400 instances, every mode, one thread.

python -m benchmarks.conditions
"""

import statistics
import time
from typing import get_args

import numpy as np

from msdm_kit.conditioners.hv import HVMode, hv_maps


def field(side: int = 512, per_row: int = 20) -> np.ndarray:
    """A grid of ellipses of varying size and shape, 400 of them, none touching another."""
    rng = np.random.default_rng(0)
    labels = np.zeros((side, side), np.int32)
    y, x = np.mgrid[:side, :side]
    step = side / per_row
    for k in range(per_row**2):
        row, column = divmod(k, per_row)
        a, b = rng.uniform(0.25, 0.48, size=2) * step
        inside = ((y - (row + 0.5) * step) / a) ** 2 + ((x - (column + 0.5) * step) / b) ** 2 < 1
        labels[inside] = k + 1
    return labels


def main() -> None:
    labels = field()
    share = (labels > 0).mean()
    print(f"numpy {np.__version__}; {labels.shape}, {labels.max()} instances, {share:.0%} foreground\n")
    print("| mode | median, ms | fastest, ms |\n|---|---|---|")
    for mode in get_args(HVMode):
        times = []
        for _ in range(30):
            began = time.perf_counter()
            hv_maps(labels, mode)
            times.append(1000 * (time.perf_counter() - began))
        print(f"| {mode} | {statistics.median(times):.1f} | {min(times):.1f} |")


if __name__ == "__main__":
    main()
