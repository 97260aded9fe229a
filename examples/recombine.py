"""The masks of one field in the colours of others: recombination as in the MSDM paper (section 4.3).

    python examples/recombine.py --out FOLDER

Takes two fields of elongated nuclei from the built-in data set and paints each in its own colours, in those
of the other, and in colours given by numbers; writes the images and a contact sheet.
"""

import argparse
from pathlib import Path

from msdm_kit import FieldDataset, Pipeline, data_folder, recombine, save_image
from msdm_kit.core.pictures import SheetRow, save_sheet
from msdm_kit.core.sample import Appearance, ColourStatistics


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the images")
    parser.add_argument("--run", default="demo", help="a run's folder, or a model by name")
    parser.add_argument("--steps", type=int, help="solver steps; by default the recipe's")
    args = parser.parse_args(arguments)

    pipeline = Pipeline.load(args.run)
    fields = FieldDataset(data_folder("histology-nuclei"), split="test_columnar")
    first, second = fields[0], fields[len(fields) - 1]
    # mean and deviation of R, G, B on the scale of images, [-1, 1]
    pale = ColourStatistics(mean=(0.3, 0.0, 0.5), std=(0.1, 0.1, 0.1))
    given = Appearance(statistics={"cell": pale, "nucleus": pale})

    targets = []
    for masks, other in ((first, second), (second, first)):
        targets += [
            recombine(masks, id=f"{masks.id}_own"),
            recombine(masks, appearance=other, metadata=other, id=f"{masks.id}_in_{other.id}"),
            recombine(masks, appearance=given, id=f"{masks.id}_pale"),
        ]
    rows = []
    for synthetic in pipeline.sample(targets, steps=args.steps):
        save_image(args.out / f"{synthetic.id}.png", synthetic.image)
        real = fields.by_id(synthetic.target.source("morphology")).image
        rows.append(SheetRow(synthetic.id, real, synthetic.target.masks, synthetic.image))
        print(synthetic.id, dict(synthetic.target.sources))
    save_sheet(args.out / "contact-sheet.png", rows, "masks of one field, colours of another")


if __name__ == "__main__":
    main()
