"""The sampling job: choose fields, paint them, write pairs that can be traced."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..core.errors import MsdmError
from ..core.processes import joined
from .data import data_folder
from .filtering import KEEP_ALL, Thresholds
from .mask_operations.apply import Operation, recipe_operations
from .pipeline import Pipeline
from .recombination import AS_THEY_ARE, Recombination
from .sampling.events import Listener
from .sampling.job import PaintingJob
from .sampling.products import Summary
from .segmentation.agreement import check_judges
from .segmenters.base import Segmenter
from .stopping import interrupted_by_all
from .targets import plan_targets


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

    A job that was stopped, in whatever way, goes on where the same one is asked for again: pairs that are
    whole are not painted again, and in the end the folder is as if nothing had happened, to the byte.

    Where `torchrun` started several processes, each paints a part of the fields. Going on with another number
    of them gives the same pairs.

    Parameters
    ----------
    run : str or Path
        What `Pipeline.load` takes.
    data : str or Path
        A folder, or a data set by name: masks, colours and metadata come from its fields.
    out : str or Path
        A folder that does not exist yet, or is empty, or that of the same job.
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
        Called with every event; of several processes only the leader's.

    Returns
    -------
    Summary
        Also written as ``summary.json`` and shown in ``report.html``, beside ``contact-sheet.png`` and
        ``recipe.yaml``.

    Raises
    ------
    MsdmError
        Anything is wrong with the run, the data, the folder or the settings, and nothing is written then; or
        a file cannot be read or written later, and every pair that was finished stays.
    """
    limits = thresholds.limits
    if tries < 1 or (tries > 1 and not limits):
        raise MsdmError(
            f"cannot try {tries} times; give --tries 1 or more, with --min-adherence, --min-agreement or "
            f"--max-colour-error"
        )
    with joined() as here:
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
        asked = {
            "model": str(run), "data": str(data), "donors": donors and str(donors), "split": split,
            "select": select and str(select), "versions": versions, "seed": seed, "tries": tries,
            "limits": [str(limit) for limit in limits],
            "mask_operations": [operation.settings for operation in operations],
            "segmenters": [
                {"type": type(s).__name__, "kind": s.kind, **s.config.model_dump(mode="json")}
                for s in segmenters
            ],
            "recombination": asdict(recombination) if recombination.active else None,
            "sampling": chosen.model_dump(mode="json", exclude={"memory", "mask_operations"}),
            "recipe": pipeline.recipe.model_dump(mode="json", by_alias=True),
        }  # fmt: skip
        job = PaintingJob(
            Path(out), pipeline, targets, chosen, operations, limits, segmenters, tries, seed, batch, asked
        )
        with interrupted_by_all():
            return job.do(here, listener if here.leads else lambda event: None)
