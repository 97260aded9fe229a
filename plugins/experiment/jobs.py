"""What each step does. A job reads its task's folders, and writes into its own."""

import json
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

from ...core.dataset import FieldDataset
from ...core.fields import MANIFEST
from ...core.files import atomic_write, write_text
from ...core.manifest import read_manifest
from ...core.recipe import Recipe, SampleSection
from ..metrics.comparison import Masks
from ..segmentation.evaluation import read_masks
from ..segmentation.scores import mask_metrics, score_field
from .graph import MASKS, MODEL, PAIRS, RUN, SCORES, SELECTED, SHAPES
from .results import Score, write_scores
from .steps import Stopped, Task


def select(task: Task) -> None:
    from ..selection import select as choose_fields
    from ..selection_file import save_selection

    s = task.settings
    found = choose_fields(
        task.data, s["where"], split=s["split"], sort=s["sort"], limit=s["limit"], on_progress=task.count
    )
    save_selection(found, task.folder / SELECTED)


def train(task: Task) -> None:
    from ...core.optimise import StepReport
    from ..run import Run
    from ..training import train as train_recipe
    from ..training_events import Interrupted, Started, Warned

    recipe = Recipe.model_validate({**task.settings["recipe"], "sample": task.step.context["sample"]})
    folder = task.folder / RUN
    total = 0

    def listen(event: object) -> None:
        nonlocal total
        if isinstance(event, Started):
            total = event.total
            for note in event.notes:
                print(f"note: {note}")
        elif isinstance(event, StepReport):
            task.count(event.step, total)
        elif isinstance(event, Warned):
            print(f"warning: {event.text}")

    resume = bool(Run(folder).checkpoints.steps)
    try:
        train_recipe(recipe, task.data, folder, resume=resume, device=task.device, listener=listen)
    except Interrupted as stopped:
        raise Stopped from stopped


def paint(task: Task) -> None:
    from ..mask_operations.apply import recipe_operations
    from ..recipe_files import load_recipe
    from ..recombination import Recombination

    synthesis = task.settings["synthesis"]
    recipe = load_recipe(task.need("train")[0] / RUN / "recipe.yaml")
    sample = SampleSection.model_validate(task.settings["sampling"])
    operations = recipe_operations(recipe.model_copy(update={"sample": sample}))
    facets = Recombination(frozenset(synthesis["recombine"]), synthesis["separate_donors"])
    select_from = task.need("select")[0] / SELECTED
    _paint(task, synthesis, select=select_from, recombination=facets, operations=operations)


def repaint(task: Task) -> None:
    # with the fields' own masks, whatever the recipe would do to them
    _paint(task, task.settings, split=task.settings["split"], operations=())


def _paint(task: Task, how: dict[str, Any], **which: Any) -> None:
    from ..painting import paint as paint_fields
    from ..sampling.events import Planned, Stepped

    done = total = 0

    def listen(event: object) -> None:
        nonlocal done, total
        if isinstance(event, Planned):
            total = event.fields * event.evaluations
            for note in event.notes:
                print(f"note: {note}")
        elif isinstance(event, Stepped):
            done += event.fields
            task.count(done, total)

    sampling = dict(task.settings["sampling"])
    sampling.pop("mask_operations", None)
    try:
        paint_fields(
            task.need("train")[0] / RUN,
            task.data,
            task.folder / PAIRS,
            versions=how["versions"],
            seed=how["seed"],
            batch=how["batch"],
            device=task.device,
            listener=listen,
            **which,
            **sampling,
        )
    except KeyboardInterrupt:
        raise Stopped from None  # what is painted stays


def segmenter(task: Task) -> None:
    from ..segmenters.fields import Joined
    from ..segmenters.jobs import train_segmenter

    s = task.settings
    kind = s["kind"]
    real = FieldDataset(task.data, masks=[kind], split=s["splits"]["train"])
    painted = [FieldDataset(folder / PAIRS, masks=[kind]) for folder in task.need("paint")]
    train_segmenter(
        s["segmenter"],
        kind,
        Joined([real, *painted]),
        FieldDataset(task.data, masks=[kind], split=s["splits"]["validation"]),
        task.folder / MODEL,
        seed=s["seed"],
        device=task.device,
        on_progress=task.count,
    )


def predict(task: Task) -> None:
    from ..segmenters.folder import load_segmenter
    from ..segmenters.jobs import predict as predict_fields

    models = [load_segmenter(folder / MODEL, device=task.device) for folder in task.need("segmenter")]
    ids = [row["id"] for split in task.settings["splits"] for row in _rows(task.data, split)]
    predict_fields(
        [model for model, _ in models],
        FieldDataset(task.data, masks=[], ids=ids),  # images alone: what is true is no matter of a prediction
        task.folder / MASKS,
        hashes=[facts.weights_sha256 for _, facts in models],
        images=False,
        on_progress=task.count,
    )


def score(task: Task) -> None:
    (predicted,) = task.need("predict")
    _, arm, seed = task.step.name.split(".")
    scores: list[Score] = []
    for test, id, distance in _tested(task):
        found = read_masks(predicted / MASKS, id, task.settings["kinds"])
        for name in task.step.context["annotators"]:
            values = _measure(task, found, _truth(task, name, id), distance, id)
            scores += [
                Score(test, id, arm, int(seed.removeprefix("seed")), kinds, metric, name, value)
                for metric, (kinds, value) in values.items()
            ]
    write_scores(task.folder / SCORES, scores)


def agreement(task: Task) -> None:
    scores: list[Score] = []
    for test, id, distance in _tested(task):
        masks = {name: _truth(task, name, id) for name in task.step.context["annotators"]}
        for one, other in combinations(masks, 2):
            # either is the truth once: the mean does not depend on their order
            there = _measure(task, masks[one], masks[other], distance, id)
            back = _measure(task, masks[other], masks[one], distance, id)
            for metric, (kinds, value) in there.items():
                both = (value + back[metric][1]) / 2
                scores.append(Score(test, id, "", 0, kinds, metric, f"{one} / {other}", both))
    write_scores(task.folder / SCORES, scores)


def _tested(task: Task) -> Iterator[tuple[str, str, float]]:
    """Test set, id, and largest distance of centres in pixels, of every field of every test set."""
    from ..metrics.distance import read_distance

    distance = read_distance(task.settings["distance"])
    tests = {name: _rows(task.data, split) for name, split in task.settings["tests"].items()}
    total, done = sum(map(len, tests.values())), 0
    for name, rows in tests.items():
        for row in rows:
            yield name, row["id"], distance.pixels_in(row, f"{task.data / MANIFEST}, field {row['id']!r}")
            done += 1
            task.count(done, total)


def _truth(task: Task, annotator: str, id: str) -> Masks:
    return read_masks(Path(task.step.context["annotators"][annotator]), id, task.settings["kinds"])


def _measure(
    task: Task, predicted: Masks, true: Masks, distance: float, id: str
) -> dict[str, tuple[str, float]]:
    """Of each metric, the kinds that it reads and its value."""
    from ...core.errors import MsdmError

    metrics = mask_metrics(task.settings["metrics"])
    try:
        values = score_field(predicted, true, list(metrics), radius=distance)
    except MsdmError as error:
        raise MsdmError(f"field {id!r}: {error}") from error
    return {name: ("+".join(metric.kinds), values[name]) for name, metric in metrics.items()}


def shapes(task: Task) -> None:
    """Eccentricities of the instances of the training set, of every arm's, and of the test sets."""
    from ..properties import Field

    s = task.settings
    painted = {folder.name.removeprefix("paint."): folder / PAIRS for folder in task.need("paint")}
    sets: dict[str, tuple[Path, list[dict[str, str]]]] = {"train": (task.data, _rows(task.data, s["train"]))}
    sets |= {f"paint.{name}": (root, read_manifest(root / MANIFEST)) for name, root in painted.items()}
    sets |= {f"test.{name}": (task.data, _rows(task.data, split)) for name, split in s["tests"].items()}
    total, done = sum(len(rows) for _, rows in sets.values()), 0
    with atomic_write(task.folder / SHAPES) as temporary, open(temporary, "w", encoding="ascii") as handle:
        handle.write("set,kind,eccentricity\n")
        for name, (root, rows) in sets.items():
            for row in rows:
                field = Field(root, row)
                for kind in s["kinds"]:
                    values = field.instances(kind, "eccentricity")
                    handle.writelines(f"{name},{kind},{value:.5f}\n" for value in values)
                done += 1
                task.count(done, total)


def _rows(root: Path, split: str) -> list[dict[str, str]]:
    return [row for row in read_manifest(root / MANIFEST) if row["split"] == split]


def fidelity(task: Task) -> None:
    from .fidelity_step import measure

    found = measure(task)
    write_text(task.folder / "fidelity.json", json.dumps(found, indent=2) + "\n")


def report(task: Task) -> None:
    from .report import make

    make(task)


JOBS: dict[str, Callable[[Task], None]] = {
    "select": select,
    "train": train,
    "paint": paint,
    "repaint": repaint,
    "segmenter": segmenter,
    "predict": predict,
    "score": score,
    "agreement": agreement,
    "shapes": shapes,
    "fidelity": fidelity,
    "report": report,
}
"""By the name that `Step.job` has."""
