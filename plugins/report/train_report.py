"""The report of a training run: losses, what the model painted as it went, and the recipe."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from ...core.errors import MsdmError
from ...core.reading import parse_json, read_bytes
from ..recipe_yaml import read_mapping
from ..run import MOST_METRICS, Run
from .figures import curves
from .html import write_report
from .numbers import four_digits
from .page import Figure, Report, Section
from .pictures import png
from .provenance import provenance

FILE = "report.html"
DRAWN = 300
"""Points of a curve at most; of more steps, means of as many neighbours each."""
_FIGURES = ("step", "loss", "gradient_norm", "images", "seconds")
"""What a line of a step has."""
_SIDE = 2400
"""Longest side of a preview, in pixels."""


def write_train_report(folder: str | Path) -> Path:
    """Write ``report.html`` into a run's folder, from its metrics, previews and recipe.

    Raises
    ------
    MsdmError
        The run has no metrics, a file cannot be read, or the report cannot be written.
    """
    path = Path(folder) / FILE
    write_report(path, train_report(Run(Path(folder))))
    return path


def train_report(run: Run) -> Report:
    """What the report holds."""
    lines = _metrics(run.metrics)
    steps = [line for line in lines if "loss" in line]
    if not steps:
        raise MsdmError(f"{run.metrics} has no losses; a report needs one step of training at least")
    validations = [line for line in lines if "validation" in line]
    recipe = read_mapping(run.recipe_file)
    last = steps[-1]
    summary = [
        f"{last['step']} steps, {last['images']} images, {_duration(last['seconds'])}. The loss over the "
        f"last steps is {four_digits(_smooth(steps, 'loss')[1][-1])}."
    ]
    sections = [Section("Losses", figures=_losses(steps, validations)), *_previews(run)]
    name = str(recipe.get("name", run.folder.name))
    return Report(f"{name}: training", summary, (), sections, {"recipe": recipe}, provenance())


def _losses(steps: list[dict[str, Any]], validations: list[dict[str, Any]]) -> list[Figure]:
    loss, gradient = _smooth(steps, "loss"), _smooth(steps, "gradient_norm")
    figures = [
        Figure(
            "Training loss",
            f"Means over neighbouring steps, at most {DRAWN} points. The loss depends on the noise level "
            f"that a step drew, so that single steps scatter.",
            f"Training loss from {four_digits(loss[1][0])} to {four_digits(loss[1][-1])}.",
            curves({"loss": loss}, "step", "loss", log=True),
        )
    ]
    if validations:
        at = [line["step"] for line in validations]
        levels = list(validations[-1]["validation"])
        values = {name: [line["validation"].get(name, np.nan) for line in validations] for name in levels}
        words = ", ".join(f"{name} {four_digits(found[-1])}" for name, found in values.items())
        figures.append(
            Figure(
                "Validation loss by noise level",
                "Of fields that are not trained on, from the averaged weights, at fixed noise; t is the "
                "share of the noising process. A level that rises while the training loss falls is "
                "overfitting.",
                f"Validation losses at the end: {words}.",
                curves({name: (at, found) for name, found in values.items()}, "step", "loss", log=True),
            )
        )
    figures.append(
        Figure(
            "Gradient norm",
            "Before clipping. Peaks that do not come back down say that the learning rate is too high.",
            f"Gradient norm from {four_digits(gradient[1][0])} to {four_digits(gradient[1][-1])}.",
            curves({"norm": gradient}, "step", "norm", log=True),
        )
    )
    return figures


def _previews(run: Run) -> list[Section]:
    """The first and the last preview."""
    found = sorted((run.folder / "previews").glob("step-*.png"))
    chosen = [found[0], found[-1]] if len(found) > 1 else found
    figures = [
        Figure(
            f"Step {int(path.stem.removeprefix('step-'))}",
            "Real image, masks, painting, painting with the outlines of its masks. Fields that were not "
            "trained on, always from the same noise.",
            f"Painted validation fields, {path.stem}.",
            _read(path),
        )
        for path in chosen
    ]
    return [Section("Previews", figures=figures)] if figures else []


def _read(path: Path) -> bytes:
    try:
        with Pillow.open(path) as picture:
            return png(np.asarray(picture.convert("RGB")), _SIDE)
    except (OSError, Pillow.DecompressionBombError) as error:
        raise MsdmError(f"cannot read {path}: {error}; delete it and write the report again") from None


def _metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of the metrics; one that a crash cut is left out."""
    try:
        lines = read_bytes(path, MOST_METRICS).decode("utf-8", "replace").splitlines()
    except OSError as error:
        raise MsdmError(f"cannot read {path}: {error.strerror}; give the folder of a run") from None
    found = []
    for line in lines:
        try:
            values = parse_json(line)
        except ValueError:
            continue
        if isinstance(values, dict) and _whole(values):
            found.append(values)
    return found


def _whole(values: dict[str, Any]) -> bool:
    """Whether a line has the numbers that the report shows."""
    measured = values.get("validation")
    if "validation" in values:
        drawn = isinstance(measured, dict) and all(map(_is_number, measured.values()))
        return drawn and _is_number(values.get("step"))
    return all(_is_number(values.get(name)) for name in _FIGURES) and values["seconds"] >= 0


def _is_number(value: object) -> bool:
    """Whether a value can be drawn."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e100


def _smooth(steps: list[dict[str, Any]], name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Steps and values, as means of neighbours where there are more than `DRAWN`."""
    pairs = np.array([(line["step"], line[name]) for line in steps], np.float64)
    parts = np.array_split(pairs, min(DRAWN, len(pairs)))
    means = np.array([part.mean(axis=0) for part in parts])
    return means[:, 0], means[:, 1]


def _duration(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes else "under a minute"
