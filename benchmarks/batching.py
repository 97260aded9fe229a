"""Four fields at once against one at a time on a CPU: time of encoding, preparing and three DDIM steps.

python -m benchmarks.batching
"""

import statistics
import time

import torch

from msdm_kit import FieldDataset, Pipeline, data_folder
from msdm_kit.core.augment import centre_crop
from msdm_kit.core.sample import Sample
from msdm_kit.core.sampling import draw
from msdm_kit.core.solvers import ddim

FIELDS = 4
REPEATS = 5


def paint(pipeline: Pipeline, fields: list[Sample]) -> None:
    denoiser = pipeline.denoiser
    with torch.inference_mode():
        signals = denoiser.encode(denoiser.observe(fields))
    ids, size, settings = [f.id for f in fields], fields[0].size, pipeline.settings(steps=3)
    draw(denoiser, signals, ids=ids, size=size, settings=settings, solver=ddim, seed=0)


def main() -> None:
    pipeline = Pipeline.load("demo", device="cpu")
    dataset = FieldDataset(data_folder("histology-nuclei"), split="test_mixed", limit=FIELDS)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    print("| side, pixels | four at once / one at a time, median of ratios |\n|---|---|")
    for side in (64, 128, 256):
        fields = [centre_crop(dataset[i], side) for i in range(FIELDS)]
        ratios = []
        for _ in range(REPEATS + 1):
            began = time.perf_counter()
            paint(pipeline, fields)
            middle = time.perf_counter()
            for field in fields:
                paint(pipeline, [field])
            ratios.append((middle - began) / (time.perf_counter() - middle))
        print(f"| {side} | {statistics.median(ratios[1:]):.2f} |", flush=True)


if __name__ == "__main__":
    main()
