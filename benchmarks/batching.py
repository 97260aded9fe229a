"""Four fields at once against one at a time on a CPU: time of encoding, preparing and three DDIM steps.

python -m benchmarks.batching
"""

from collections.abc import Sequence
from functools import partial

import torch

from msdm_kit import FieldDataset, Pipeline, data_folder
from msdm_kit.core.augment import centre_crop
from msdm_kit.core.sample import Sample
from msdm_kit.core.sampling import Sampler
from msdm_kit.core.solvers import ddim

from .timing import head, interleaved, machine, row, speedup

FIELDS = 4
REPEATS = 5


def paint(sampler: Sampler, fields: list[Sample]) -> None:
    denoiser = sampler.network
    with torch.inference_mode():
        signals = denoiser.encode(denoiser.observe(fields))
    sampler.draw(signals, ids=[f.id for f in fields], size=fields[0].size, seed=0)


def each(sampler: Sampler, groups: Sequence[list[Sample]]) -> None:
    for fields in groups:
        paint(sampler, fields)


def main() -> None:
    pipeline = Pipeline.load("demo", device="cpu")
    sampler = Sampler(pipeline.denoiser, pipeline.settings(solver="ddim", steps=3), ddim)
    dataset = FieldDataset(data_folder("histology-nuclei"), split="test_mixed", limit=FIELDS)
    print(f"{machine()}\n")
    head("side, pixels", "four at once / one at a time, median of ratios")
    for side in (64, 128, 256):
        fields = [centre_crop(dataset[i], side) for i in range(FIELDS)]
        groups = {"at once": [fields], "one at a time": [[f] for f in fields]}
        calls = {name: partial(each, sampler, group) for name, group in groups.items()}
        seconds = interleaved(calls, REPEATS)
        row(side, f"{speedup(seconds['at once'], seconds['one at a time']):.2f}")


if __name__ == "__main__":
    main()
