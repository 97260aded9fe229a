"""How the pages of the documentation are run: what is given, what is made smaller, what is not run."""

from .doc_world import SETTINGS, TINY_SEGMENTER, set_options
from .packages import TOY

# page: path -> what lies there before the page begins; see `World`
GIVEN: dict[str, dict[str, str]] = {
    "docs/api.md": {"DIR": "fields"},
    "docs/cli.md": {
        "DIR": "fields",
        "RUN": "trained",
        "it.csv": "ids",
        "nuclei.tif": "nucleus_mask",
        "cells.tif": "cell_mask",
        "cells.geojson": "outlines",
        "ema_0.9999_100000.pt": "sdm_checkpoint",
        "model.pt": "sdm_checkpoint_of_16_channels",
        "PanNuke": "pannuke",
        "exports": "cellpose_masks",
        "slides/tiles": "pictures",
        "assays.csv": "table",
        "data/nuclei": "nuclei_alone",
        "data/test": "fields",
        "data/p1": "fields",
        "data/p2": "other_annotator",
        "data/p3": "fields",
        "out/painted": "painted",
        "out/predicted": "other_annotator",
    },
    "docs/data-check.md": {"DIR": "fields", "NUCLEI": "nuclei_alone"},
    "docs/data-export.md": {"DIR": "fields", "out/it": "painted", "columnar.csv": "ids"},
    "docs/data-import.md": {
        "SRC": "stardist",
        "PanNuke": "pannuke",
        "exports": "cellpose_masks",
        "tiles": "pictures",
        "assays.csv": "table",
    },
    "docs/data-layout.md": {"my-data": "fields"},
    "docs/evaluate-fidelity.md": {"REAL": "fields", "SYNTH": "painted"},
    "docs/evaluate-segmentation.md": {"PRED": "other_annotator", "TRUTH": "fields"},
    "docs/large-fields.md": {
        "RUN": "trained",
        "DIR": "fields",
        "nuclei.tif": "nucleus_mask",
        "cells.tif": "cell_mask",
    },
    "docs/mask-operations.md": {"RUN": "trained", "DIR": "fields"},
    "docs/quickstart-results.md": {"RUN": "trained"},
    "docs/reliability.md": {"RUN": "trained", "DIR": "fields"},
    "docs/segmenters.md": {"runs/first": "trained", "DIR": "fields", "out/painted": "painted"},
    "docs/select-and-recombine.md": {"DIR": "fields"},
    "docs/tour.md": {"DIR": "fields"},
}

# page: what its blocks say, and what is run instead
SMALLER: dict[str, list[tuple[str, str]]] = {
    "README.md": [("seed=0)", "seed=0, steps=1)")],
    "docs/api.md": [
        ("seed=0)", "seed=0, steps=1)"),
        ('"train.steps=50", "train.batch=4"', ", ".join(map(repr, TOY))),
        ('data="histology-nuclei"', 'data="DIR"'),
    ],
    "docs/cli.md": [
        ("20000x30000", "64x64"),
        ("segment train histology-nuclei", "segment train DIR"),
        ("segment predict models/nuclei histology-nuclei", "segment predict models/nuclei DIR"),
        ("evaluate fidelity histology-nuclei", "evaluate fidelity DIR"),
    ],
    "docs/tour.md": [("evaluate fidelity histology-nuclei", "evaluate fidelity DIR")],
    "docs/segmenters.md": [
        ("histology-nuclei", "DIR"),
        ("scratch-small:crops=16", TINY_SEGMENTER),
    ],
    "docs/select-and-recombine.md": [
        ("segment train histology-nuclei models/nuclei", "segment train DIR models/nuclei"),
        ("--select elongated.csv --versions 2", "--select elongated.csv --n 1"),
        ("versions=2, recombination", "n=1, steps=1, recombination"),
    ],
}

# a command, words that stand in it: the words that are added when it is run; the last of an option counts
ADDED: list[tuple[str, tuple[str, ...], list[str]]] = [
    ("sample", ("--versions",), ["--versions", "1", "--steps", "2"]),
    ("sample", (), ["--n", "1", "--steps", "1"]),
    ("paint-field", (), ["--steps", "1"]),
    ("train", ("conditioners.text=null",), set_options(*(s for s in SETTINGS if "injectors.1" not in s))),
    (
        "train",
        ("msdm",),
        set_options(
            *SETTINGS, "backbone.head_channels=8", "backbone.attention_strides=[]", "train.epochs=null"
        ),
    ),
    ("train", (), set_options(*SETTINGS)),
    ("experiment", (), ["--dry-run"]),  # tests/cli/test_experiment.py runs plans as a whole
    ("data synthesise", (), ["--n", "2", "--size", "96x96"]),
    ("segment train", (), ["--segmenter", TINY_SEGMENTER]),
    ("evaluate fidelity", (), ["--permutations", "9", "--repeats", "2", "--no-cache", "--projection", "pca"]),
]

SET_UP = {  # what CI has done before the tests run: see .ci/run
    "python3 -m venv .venv",
    ". .venv/bin/activate",
    "pip install .",
}

# page: how many of its blocks are marked as not run; one more is a decision
NOT_RUN = {
    "docs/cli.md": 3,
    "docs/conditioners.md": 1,
    "docs/latents.md": 1,
    "docs/results/quick.md": 1,
    "docs/scale.md": 4,
    "docs/segmenters.md": 1,
}
