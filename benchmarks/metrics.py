"""Metrics of masks, beside Cellpose's and MONAI's: seconds, and the difference of the figures.

    python -m benchmarks.metrics [--cells 1000] [--monai-cells 60] [--repeats 5]

A field of so many true cells and their predictions, each shifted by a few pixels, some left out. MONAI makes
a mask of the field for each instance, and is asked about a smaller field. Both sides start from label masks.
"""

import argparse
import math
from collections.abc import Callable, Mapping
from functools import partial
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray

from msdm_kit.plugins.metrics.comparison import Comparison, KindComparison
from msdm_kit.plugins.metrics.masks import METRICS
from msdm_kit.plugins.metrics.matching import best_matching, match_points

from .timing import head, interleaved, machine, row, speedup

Masks = tuple[NDArray[np.int32], NDArray[np.int32]]
SPACING = 32
"""Pixels between the centres of cells; their radius is a little over half of it, so that they touch."""


def field(cells: int, seed: int = 0) -> Masks:
    """Predicted and true masks: `cells` touching cells on a jittered grid, and their predictions."""
    rng = np.random.default_rng(seed)
    across = math.ceil(math.sqrt(cells))
    true, predicted = np.zeros((2, across * SPACING, across * SPACING), np.int32)
    reach = np.arange(-SPACING, SPACING + 1)
    for label in range(1, cells + 1):
        centre = (np.array(divmod(label - 1, across)) + 0.5) * SPACING + rng.uniform(-5, 5, 2)
        radius, stretch = rng.uniform(10, 18), rng.uniform(0.8, 1.25)
        for labels, shift in ((true, (0, 0)), (predicted, rng.integers(-3, 4, 2))):
            if labels is predicted and rng.random() < 0.1:
                continue
            row, column = np.rint(centre + shift).astype(int)
            rows, columns = reach + row, reach + column
            rows, columns = (a[(a >= 0) & (a < len(true))] for a in (rows, columns))
            y, x = np.meshgrid(rows - row, columns - column, indexing="ij")
            part = labels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            part[np.hypot(y * stretch, x / stretch) < radius] = label
    # Cellpose and MONAI want labels without gaps
    predicted = np.unique(predicted, return_inverse=True)[1].reshape(predicted.shape).astype(np.int32)
    return predicted, np.unique(true, return_inverse=True)[1].reshape(true.shape).astype(np.int32)


def compared(masks: Masks) -> KindComparison:
    """A comparison in which nothing is found yet."""
    return Comparison({"cell": masks[0]}, {"cell": masks[1]}).of("cell")


def ours(name: str, masks: Masks) -> float:
    """A figure from the masks on."""
    return METRICS[name].compute(Comparison({"cell": masks[0]}, {"cell": masks[1]})).value


def matchings(of: KindComparison, repeats: int) -> None:
    """Rows of the Hungarian matching alone, beside scipy's over all pairs."""
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist

    predicted, true, _ = of.overlaps
    ious = np.zeros((len(of.predicted), len(of.true)))
    ious[predicted, true] = of.ious
    centres = of.predicted.centres, of.true.centres
    distances = cdist(*centres)

    def by_iou() -> float:
        return float(of.ious[best_matching(predicted, true, of.ious, ious.shape)].sum())

    def by_iou_dense() -> float:
        return float(ious[linear_sum_assignment(ious, maximize=True)].sum())

    def by_centre(radius: float) -> float:
        pairs = match_points(*centres, radius)
        return float(distances[pairs[:, 0], pairs[:, 1]].sum())

    def by_centre_dense(radius: float) -> float:
        cost = np.where(distances <= radius, distances, 1e6)
        found = cost[linear_sum_assignment(cost)]
        return float(found[found < 1e6].sum())

    far = 2.0 * sum(of.true.index.shape)
    shape = f"{len(of.predicted)} x {len(of.true)}"
    for name, one, other in (
        ("matching by IoU", by_iou, by_iou_dense),
        ("matching of centres within 6 px", lambda: by_centre(6), lambda: by_centre_dense(6)),
        ("matching of centres at any distance", lambda: by_centre(far), lambda: by_centre_dense(far)),
    ):
        show(f"{name}, {shape}", "scipy, dense", one, other, repeats)


def of_cellpose(masks: Masks) -> dict[str, Callable[[], float]]:
    """Cellpose's figures, by the names of ours."""
    from cellpose import metrics

    predicted, true = masks
    return {
        "cell_ap50": lambda: float(metrics.average_precision(true, predicted, [0.5])[0][0]),
        "cell_ap75": lambda: float(metrics.average_precision(true, predicted, [0.75])[0][0]),
        "cell_aji": lambda: float(metrics.aggregated_jaccard_index([true], [predicted])[0]),
    }


def of_monai(masks: Masks) -> dict[str, Callable[[], float]]:
    """MONAI's figures, by the names of ours; none where it is not installed."""
    try:
        from monai import metrics
    except ImportError:
        return {}
    predicted, true = (torch.from_numpy(labels) for labels in masks)
    of = compared(masks)
    pairs = [(of.predicted.labels[p], of.true.labels[t]) for p, t in of.pairs.tolist()]

    def each(figure: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> float:
        return float(np.mean([
            float(figure((predicted == p)[None, None].float(), (true == t)[None, None].float()))
            for p, t in pairs
        ]))  # fmt: skip

    def surface(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return metrics.compute_average_surface_distance(a, b, include_background=True, symmetric=True)

    return {
        "cell_pq": lambda: float(metrics.compute_panoptic_quality(predicted, true, smooth_numerator=0.0)),
        "cell_dice": lambda: each(metrics.compute_dice),
        "cell_assd": lambda: each(surface),
    }


def beside(masks: Masks, peer: str, theirs: Mapping[str, Callable[[], float]], repeats: int) -> None:
    """A row per figure."""
    for name, call in theirs.items():
        show(f"{name}, {int(masks[1].max())} cells", peer, partial(ours, name, masks), call, repeats)


def show(what: str, peer: str, one: Callable[[], float], other: Callable[[], float], repeats: int) -> None:
    """A row: seconds of both, and how far the figures are apart."""
    seconds = interleaved({"ours": one, "theirs": other}, repeats)
    times = [f"{median(seconds[name]):.4f}" for name in ("ours", "theirs")]
    row(
        what,
        peer,
        *times,
        f"{speedup(seconds['theirs'], seconds['ours']):.1f}",
        f"{abs(one() - other()):.0e}",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=1000)
    parser.add_argument("--monai-cells", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    large, small = field(args.cells), field(args.monai_cells)
    sizes = " and ".join(f"{len(masks[0])} x {len(masks[0])}" for masks in (large, small))
    print(f"{machine()}; fields of {sizes} pixels\n")
    head("what", "beside", "ours, s", "theirs, s", "times faster", "difference")
    matchings(compared(large), args.repeats)
    beside(large, "Cellpose", of_cellpose(large), args.repeats)
    beside(small, "MONAI", of_monai(small), args.repeats)
    every = {"all": lambda: [metric.compute(of) for of in [_both(large)] for metric in METRICS.values()]}
    taken = median(interleaved(every, args.repeats)["all"])
    row(f"all {len(METRICS)} figures, {args.cells} cells and nuclei", "-", f"{taken:.4f}", "-", "-", "-")


def _both(masks: Masks) -> Comparison:
    predicted, true = masks
    return Comparison({"cell": predicted, "nucleus": predicted}, {"cell": true, "nucleus": true})


if __name__ == "__main__":
    main()
