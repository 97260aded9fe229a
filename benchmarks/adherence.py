"""Does the image follow its conditions? The quickstart recipe with and without colour and text.

    python -m benchmarks.adherence --out FOLDER [--steps 900] [--fields 20]

Trains both equally on the built-in training split and paints `test_mixed` fields, which neither has seen,
each with its own masks, colours and metadata. Prints a table; runs, pairs and contact sheets stay in FOLDER.
"""

import argparse
import time
from pathlib import Path

import torch

from msdm_kit.plugins.painting import paint
from msdm_kit.plugins.recipe_files import load_recipe
from msdm_kit.plugins.training import train

from .timing import head, machine, row

HV_ALONE = [
    "name=quickstart-hv",
    "conditioners.colour=null",
    "conditioners.text=null",
    "injectors=[{type: spade, from: [morphology], at: [middle, decoder], hidden: 32}]",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--fields", type=int, default=20)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"{machine()}; {args.steps} steps, {args.fields} fields\n")
    head("conditions", "training", "mask adherence", "real", "ratio", "colour error, levels")
    for name, changes in (("HV alone", HV_ALONE), ("HV, colour, text", [])):
        recipe = load_recipe("quickstart", [*changes, f"train.steps={args.steps}"])
        began = time.perf_counter()
        run = train(recipe, out=args.out / "runs" / recipe.name)
        seconds = time.perf_counter() - began
        pairs = args.out / "pairs" / recipe.name
        figures = paint(run, out=pairs, n=args.fields, split="test_mixed").figures
        row(
            *(name, f"{seconds:.0f} s", f"{figures['mask_adherence']:.3f}"),
            *(f"{figures['mask_adherence_real']:.3f}", f"{figures['mask_adherence_ratio']:.2f}"),
            f"{figures['colour_error_levels']:.1f}",
        )


if __name__ == "__main__":
    main()
