"""The sampling job: choose fields, paint them, write pairs that can be traced."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from math import isnan
from pathlib import Path
from statistics import fmean
from typing import Any

from ..core.errors import MsdmError
from ..core.fields import MANIFEST
from ..core.files import write_text
from ..core.manifest import check_ids
from .data import data_folder
from .filtering import AGREEMENT, KEEP_ALL, Acceptance, Thresholds, judge, noise_seed
from .mask_operations.apply import Operation, recipe_operations
from .metrics.adherence import Adherence, measure, summarise
from .new_folder import check_new
from .pair_folder import REJECTED, PairFolder, pair_row, rejected_folder
from .pipeline import Pipeline
from .recipe_files import dump_recipe
from .recombination import AS_THEY_ARE, Recombination
from .report.sample_report import FILE as REPORT
from .report.sample_report import Job, write_sample_report
from .segmentation.agreement import check_judges, segmenter_agreement
from .segmenters.base import Segmenter
from .solver import load_solver
from .targets import plan_targets


@dataclass(frozen=True)
class Planned:
    """What will be painted: `fields` fields in `steps` solver steps each, `seen` of them trained on.

    The steps of a field are `evaluations` of the network, which is what is counted while it is painted.
    """

    fields: int
    steps: int
    evaluations: int
    seen: int
    device: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Stepped:
    """An evaluation of the network on `fields` fields is done."""

    fields: int


@dataclass(frozen=True)
class Painted:
    """A pair was written: `rejected` says why it was not kept, `again` that its output is painted anew."""

    id: str
    adherence: Adherence
    rejected: str = ""
    again: bool = False


Listener = Callable[[Planned | Stepped | Painted], None]


@dataclass(frozen=True)
class Summary:
    """What a sampling job did.

    Attributes
    ----------
    folder : Path
    sheet : Path or None
        None where no pair was kept.
    pairs : int
        In `folder`.
    seen : int
        Pairs whose masks the model was trained on.
    figures : dict of str -> float
        From `metrics.adherence.summarise`, over the pairs, and the mean ``segmenter_agreement`` of those that
        have one.
    acceptance : Acceptance or None
        What the filter did; None without thresholds.
    rejected : Path or None
        The folder of what was rejected; None where nothing was.
    """

    folder: Path
    sheet: Path | None
    pairs: int
    seen: int
    figures: dict[str, float]
    acceptance: Acceptance | None = None
    rejected: Path | None = None

    @property
    def report(self) -> Path:
        """The page that shows all this."""
        return self.folder / REPORT


def paint(
    run: str | Path,
    data: str | Path = "histology-nuclei",
    out: str | Path = "samples",
    *,
    n: int | None = None,
    split: str | None = None,
    select: str | Path | None = None,
    versions: int | None = None,
    recombination: Recombination = AS_THEY_ARE,
    operations: Sequence[Operation] | None = None,
    donors: str | Path | None = None,
    thresholds: Thresholds = KEEP_ALL,
    segmenters: Sequence[Segmenter] = (),
    tries: int = 1,
    seed: int = 0,
    batch: int = 4,
    device: str | None = None,
    listener: Listener = lambda event: None,
    **settings: Any,
) -> Summary:
    """Paint fields of a data set and write the pairs as a data set in the documented layout.

    Parameters
    ----------
    run : str or Path
        What `Pipeline.load` takes.
    data : str or Path
        A folder, or a data set by name: masks, colours and metadata come from its fields.
    out : str or Path
        A folder that does not exist yet, or is empty.
    n : int or None
        Pairs; None takes 8, or one of every field of a selection.
    split : str or None
        None: the fields that are not in the recipe's training split, where there are any.
    select : path or None
        A selection: its fields are painted, in place of a split's.
    versions : int or None
        So many pairs of every field, in place of `n`.
    recombination : Recombination
        What is taken from other fields, or given.
    operations : sequence of Operation, or None
        Applied to the masks of every pair; `mask_operations.apply.load_operations` makes them. None takes
        those of the run's recipe, and an empty one none.
    donors : str, Path or None
        As `data`: another data set, whose fields give colours and metadata.
    thresholds : Thresholds
        A painting that does not pass them is written to ``OUT.rejected``, a data set of the same form whose
        column ``rejected_because`` says why.
    segmenters : sequence of Segmenter
        What they find in each painting is held against its masks (`agreement.segmenter_agreement`); each of
        another kind.
    tries : int
        A rejected output is painted again from other noise (`filtering.noise_seed`), so often in all.
    seed : int
        Of the noise, of who takes what from whom, of colours that are drawn from ranges, and of mask
        operations.
    batch, device, **settings
        As `Pipeline.sample` takes them.
    listener : callable
        Called with every event.

    Returns
    -------
    Summary
        Also written as ``summary.json`` and shown in ``report.html``, beside ``contact-sheet.png`` and
        ``recipe.yaml``.

    Raises
    ------
    MsdmError
        Anything is wrong with the run, the data, the folder or the settings; nothing is written then.
    """
    folder = Path(out)
    check_new(folder)
    apart = rejected_folder(folder)
    limits = thresholds.limits
    if tries < 1 or (tries > 1 and not limits):
        raise MsdmError(
            f"cannot try {tries} times; give --tries 1 or more, with --min-adherence, --min-agreement or "
            f"--max-colour-error"
        )
    if limits:
        check_new(apart)
    source = data_folder(str(data))
    pipeline = Pipeline.load(run, device=device)
    check_judges(segmenters, pipeline.recipe.data.masks, thresholds.min_agreement is not None)
    chosen = pipeline.settings(**settings)
    operations = recipe_operations(pipeline.recipe) if operations is None else operations
    targets = plan_targets(
        pipeline,
        source,
        n=n,
        split=split,
        select=select,
        versions=versions,
        seed=seed,
        options=recombination,
        operations=operations,
        donors=None if donors is None else data_folder(str(donors)),
        settings=chosen,
    )
    outputs, read = targets.outputs, targets.dataset.by_id
    steps, _ = chosen.walk
    walked = chosen.walked(len(pipeline.denoiser.schedule)) > 0
    evaluations = load_solver(chosen.solver).evaluations(steps) if walked else 0
    notes = targets.notes
    if limits:
        check_ids([_apart_id(output.id, tries, tries) for output in outputs], apart / MANIFEST)
        notes = (*notes, f"kept is what has {' and '.join(map(str, limits))}; the rest goes to {apart}")
    where = str(pipeline.device)
    listener(Planned(len(outputs), steps if walked else 0, evaluations, targets.seen, where, notes))

    measured: list[Adherence] = []
    rejected: list[Adherence] = []
    agreements: list[float] = []
    seen = 0
    acceptance = Acceptance(limits, tries)
    # what is painted at once is tried again at once, so that few fields wait for their next try
    together = pipeline.at_once(batch) if tries > 1 else batch
    with PairFolder(folder) as pairs, PairFolder(apart) as rejects:
        for start in range(0, len(outputs), together):
            # loaded as they are painted: a job of thousands of fields holds one batch
            planned = {output.id: output for output in outputs[start : start + together]}
            fields = [targets.build(output) for output in planned.values()]
            for attempt in range(1, tries + 1):
                failed = []
                for synthetic in pipeline.sample(
                    fields,
                    seed=noise_seed(seed, attempt),
                    batch=batch,
                    on_step=lambda count: listener(Stepped(count)),
                    **chosen.model_dump(),
                ):
                    target, output = synthetic.target, planned[synthetic.id]
                    # of masks that were changed there is no real image
                    real = None if operations else read(output.morphology).image
                    adherence = measure(target, synthetic.image, real=real)
                    measures = _measures(adherence)
                    if segmenters:
                        agreement = segmenter_agreement(segmenters, synthetic.image, target.masks)
                        measures[AGREEMENT] = agreement
                    verdict = judge(measures, limits)
                    which = attempt if limits else None
                    row = pair_row(pipeline, synthetic, adherence, output, seed=seed, attempt=which)
                    if segmenters:
                        row[AGREEMENT] = "" if isnan(agreement) else f"{agreement:.4f}"
                    again = not verdict.kept and attempt < tries
                    if verdict.kept:
                        pairs.add(synthetic, row, real)
                        measured.append(adherence)
                        if segmenters and not isnan(agreement):
                            agreements.append(agreement)
                        seen += targets.is_seen(output)
                    else:
                        id = _apart_id(target.id, attempt, tries)
                        rejects.add(synthetic, {**row, "id": id, REJECTED: verdict.reason}, real)
                        failed.append(target)
                        rejected.append(adherence)
                    acceptance.count(verdict, again=again)
                    listener(Painted(target.id, adherence, verdict.reason, again))
                fields = failed
                if not fields:
                    break
    figures = summarise(measured)
    if agreements:
        figures[AGREEMENT] = fmean(agreements)
    summary = _finish(pipeline, pairs, rejects, figures, len(measured), seen, acceptance)
    asked = {
        "model": str(run), "data": str(data), "donors": donors and str(donors), "split": split,
        "select": select and str(select), "versions": versions, "seed": seed, "tries": tries,
        "limits": [str(limit) for limit in limits],
        "mask_operations": [operation.settings for operation in operations],
        "segmenters": [
            {"type": type(s).__name__, "kind": s.kind, **s.config.model_dump(mode="json")} for s in segmenters
        ],
        "recombination": asdict(recombination) if recombination.active else None,
        "sampling": chosen.model_dump(mode="json", exclude={"memory", "mask_operations"}),
        "recipe": pipeline.recipe.model_dump(mode="json", by_alias=True),
    }  # fmt: skip
    write_sample_report(
        Job(
            summary, pipeline.recipe, pipeline.step, measured, rejected, pairs.shown, rejects.shown,
            asked, pipeline.weights_hash, str(pipeline.device),
        )
    )  # fmt: skip
    return summary


def _measures(adherence: Adherence) -> dict[str, float | None]:
    """What a filter may hold against limits, under the names of the manifest's columns."""
    return {"mask_adherence": adherence.mask, "colour_error_levels": adherence.colour}


def _apart_id(id: str, attempt: int, tries: int) -> str:
    """The id of a rejected painting: that of its output, and the try where there may be several."""
    return id if tries == 1 else f"{id}_try{attempt}"


def _finish(
    pipeline: Pipeline,
    pairs: PairFolder,
    rejects: PairFolder,
    figures: dict[str, float],
    kept: int,
    seen: int,
    acceptance: Acceptance,
) -> Summary:
    title = f"{pipeline.recipe.name}, {pipeline.step} steps"
    apart = rejects.folder if rejects.save_sheet(f"{title}, rejected") else None
    summary = Summary(
        pairs.folder,
        pairs.save_sheet(title),
        kept,
        seen,
        figures,
        acceptance if acceptance.limits else None,
        apart,
    )
    write_text(summary.folder / "recipe.yaml", dump_recipe(pipeline.recipe))
    report = {
        "pairs": summary.pairs,
        "pairs_of_training_fields": seen,
        "recipe": pipeline.recipe.name,
        "training_steps": pipeline.step,
        "weights_sha256": pipeline.weights_hash,
        **summary.figures,
        **({"filter": acceptance.report()} if acceptance.limits else {}),
    }
    write_text(summary.folder / "summary.json", json.dumps(report, indent=2) + "\n")
    return summary
