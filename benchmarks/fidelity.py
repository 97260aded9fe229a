"""How fast distances of features, embedders and the look for copies are.

    python -m benchmarks.fidelity [--rows 500] [--features 1536] [--fields 32]

Features are normal and the synthetic ones shifted. Fields are those of the built-in set, embedded one by one
without a cache.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch

from msdm_kit import FieldDataset
from msdm_kit.plugins.data import data_folder
from msdm_kit.plugins.embedders.descriptors import Descriptors
from msdm_kit.plugins.embedders.fields import embed_fields
from msdm_kit.plugins.fidelity.memory import memorisation
from msdm_kit.plugins.fidelity.metrics import feature_metrics

from .timing import head, machine, row


def seconds(call: Callable[[], object], repeats: int = 3) -> float:
    """The least of some runs; the first, which imports, does not count."""
    call()
    found = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        found.append(time.perf_counter() - began)
    return min(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--features", type=int, default=1536)
    parser.add_argument("--fields", type=int, default=32)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=(args.rows, args.features)).astype(np.float32) for _ in range(2))
    b += np.float32(0.1)
    print(f"{machine()}; {args.rows} and {args.rows} rows of {args.features} features\n")
    head("what", "seconds")
    for name, metric in feature_metrics().items():
        row(name, f"{seconds(lambda: metric.compute(a, b, np.random.default_rng(0))):.3f}")  # noqa: B023
    fewer = feature_metrics()["wasserstein"]
    least = seconds(lambda: fewer.compute(a, b[:-1], np.random.default_rng(0)))
    row(f"wasserstein, {args.rows} against {args.rows - 1} rows", f"{least:.3f}")
    fields = FieldDataset(data_folder("histology-nuclei"), masks=["nucleus"], limit=args.fields)
    embedder = Descriptors(Descriptors.Config(), torch.device("cpu"))
    took = seconds(lambda: embed_fields(embedder, fields), 1)
    row("descriptors, per field of 256 x 320", f"{took / args.fields:.3f}")
    features = embed_fields(embedder, fields)
    took = seconds(lambda: memorisation(fields, fields, features, features), 1)
    row(f"copies among {args.fields} fields, per synthetic field", f"{took / args.fields:.3f}")


if __name__ == "__main__":
    main()
