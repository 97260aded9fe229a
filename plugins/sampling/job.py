"""A sampling job whose settings are checked, done in the folder that it is begun in, or goes on in."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.errors import MsdmError
from ...core.fields import MANIFEST
from ...core.files import claimed, make_folder
from ...core.journal import read_journal
from ...core.manifest import check_ids
from ...core.processes import Processes
from ...core.recipe import SampleSection
from ...core.sample import Sample
from ..filtering import Limit, judge, noise_seed
from ..mask_operations.apply import Operation
from ..metrics.adherence import measure
from ..needs import package_versions
from ..painting_estimate import memory_notes
from ..pipeline import Pipeline, Synthetic
from ..recombination import PlannedOutput
from ..segmentation.agreement import segmenter_agreement
from ..segmenters.base import Segmenter
from ..solver import load_solver
from ..targets import Targets
from .events import Listener, Painted, Planned, Stepped
from .identity import begin, identity, is_begun, other_versions
from .pair_folder import PairFolder, rejected_folder
from .products import Products, Summary, summarised
from .recovery import Remains
from .rows import REJECTED, measures_of, pair_row
from .settled import Row, Settled, apart_id, settle


@dataclass(frozen=True)
class PaintingJob:
    """A sampling job whose settings are checked, as each of its processes does it."""

    folder: Path
    pipeline: Pipeline
    targets: Targets
    settings: SampleSection
    operations: Sequence[Operation]
    limits: Sequence[Limit]
    segmenters: Sequence[Segmenter]
    tries: int
    seed: int
    batch: int
    asked: Mapping[str, Any]

    @property
    def apart(self) -> Path:
        return rejected_folder(self.folder)

    @property
    def _folders(self) -> list[Path]:
        """Of the pairs, and of what is rejected where anything may be: otherwise it is not the job's."""
        return [self.folder, self.apart] if self.limits else [self.folder]

    def do(self, here: Processes, listener: Listener) -> Summary:
        """Paint what is not there yet."""
        with ExitStack() as stack:
            settled = self._open(stack) if here.leads else None
            due: dict[str, int] = here.gather(settled and settled.due)[0]
            mine = dict(here.share(list(due.items())))
            if settled is not None:
                self._tell_plan(settled, len(mine), here, listener)
            self._paint(mine, here, settled, listener)
            here.wait_for_all("painted")
            if settled is not None:
                if due:
                    settled = self._join()
                products = Products(
                    self.pipeline, self.targets, settled, self._summary(settled), self.apart, self.asked
                )
                if due or not products.are_there():
                    products.write()
            here.wait_for_all("finished")
            if settled is None:
                settled = self._settled([read_journal(folder / MANIFEST) for folder in self._folders])
            return self._summary(settled)

    def _open(self, stack: ExitStack) -> Settled:
        """Begin the job in its folder, or see how far it is there."""
        if self.limits:
            ids = [apart_id(o.id, self.tries, self.tries) for o in self.targets.outputs]
            check_ids(ids, self.apart / MANIFEST)
        job = identity(
            self.targets,
            weights_sha256=self.pipeline.weights_hash,
            settings=self.settings,
            operations=self.operations,
            limits=self.limits,
            tries=self.tries,
            segmenters=self.segmenters,
            seed=self.seed,
            versions=package_versions(self.pipeline.recipe),
        )
        apart = self.apart if self.limits else None
        is_begun(self.folder, apart, job)  # what is refused leaves no folder
        make_folder(self.folder)
        stack.enter_context(claimed(self.folder, f"painting into {self.folder}"))
        # looked at again: another start may have been first
        if not is_begun(self.folder, apart, job):
            begin(self.folder, job)
        remains = self._remains()
        settled = self._settled([left.rows for left in remains])
        settled.lost = sum(left.lost for left in remains)
        settled.mixed = other_versions(self.folder, job)
        for left in remains:
            left.tidy()
        self._write_manifests(remains, settled)
        return settled

    def _remains(self) -> list[Remains]:
        return [Remains(folder, self.pipeline.recipe.data.masks) for folder in self._folders]

    def _settled(self, rows: Sequence[Sequence[Row]]) -> Settled:
        kept, apart, *_ = *rows, ()
        return settle(self.targets.outputs, kept, apart, tries=self.tries, filtered=bool(self.limits))

    def _write_manifests(self, remains: Sequence[Remains], settled: Settled) -> None:
        """One manifest of what all processes wrote; in the order of the plan, where the job is done."""
        outputs = self.targets.outputs
        tried = [apart_id(o.id, k, self.tries) for o in outputs for k in range(1, self.tries + 1)]
        planned = ([output.id for output in outputs], tried)
        for left, rows, ids in zip(remains, (settled.kept, settled.apart), planned, strict=False):
            if settled.due or not left.is_final(rows):
                left.rewrite(rows, frozenset(ids), final=not settled.due)

    def _join(self) -> Settled:
        remains = self._remains()
        settled = self._settled([left.rows for left in remains])
        self._write_manifests(remains, settled)
        if settled.due:
            raise MsdmError(
                f"{len(settled.due)} outputs of {self.folder} are missing, {min(settled.due)!r} among them: "
                f"files were deleted or changed while they were painted; start the job again"
            )
        return settled

    def _summary(self, settled: Settled) -> Summary:
        return summarised(
            settled,
            self.targets,
            self.folder,
            self.apart,
            limits=self.limits,
            tries=self.tries,
            agreed=bool(self.segmenters),
        )

    def _tell_plan(self, settled: Settled, share: int, here: Processes, listener: Listener) -> None:
        schedule = self.pipeline.denoiser.schedule
        steps = self.settings.walk[0] if self.settings.walked(len(schedule)) > 0 else 0
        evaluations = load_solver(self.settings.solver).evaluations(steps) if steps else 0
        notes = self.targets.notes
        if settled.due and settled.kept and settled.mixed:
            notes = (*notes, settled.mixed)
        if settled.due and steps:
            notes = (*notes, *self._memory_notes(settled))
        if self.limits:
            wanted = " and ".join(map(str, self.limits))
            notes = (*notes, f"kept is what has {wanted}; the rest goes to {self.apart}")
        fields = len(self.targets.outputs)
        listener(
            Planned(
                fields,
                steps,
                evaluations,
                self.targets.seen,
                str(self.pipeline.device),
                notes,
                done=fields - len(settled.due),
                pairs=len(settled.kept),
                rejected=len(settled.apart),
                lost=settled.lost,
                share=share,
                processes=here.count,
            )
        )

    def _memory_notes(self, settled: Settled) -> tuple[str, ...]:
        """What painting the largest field that is due takes."""
        due = [o.morphology for o in self.targets.outputs if o.id in settled.due]
        sizes = dict(zip(self.targets.dataset.ids, self.targets.dataset.sizes, strict=True))
        size = max((sizes[id] for id in due), key=lambda size: size[0] * size[1])
        batch = min(self.pipeline.at_once(self.batch), len(due))
        return memory_notes(
            self.pipeline.recipe, self.pipeline.denoiser, self.settings, size=size, batch=batch
        )

    def _paint(
        self, due: Mapping[str, int], here: Processes, settled: Settled | None, tell: Listener
    ) -> None:
        """Paint outputs from the given tries on."""
        outputs = [output for output in self.targets.outputs if output.id in due]
        # what is painted at once is tried again at once, so that few fields wait for their next try
        together = self.pipeline.at_once(self.batch) if self.tries > 1 else self.batch
        with ExitStack() as stack:
            kept, apart = (
                stack.enter_context(
                    PairFolder(folder, here.rank, [r["id"] for r in rows], classes=bool(self.targets.classes))
                )
                for folder, rows in (
                    (self.folder, settled.kept if settled else []),
                    (self.apart, settled.apart if settled else []),
                )
            )
            for start in range(0, len(outputs), together):
                # loaded as they are painted: a job of thousands of fields holds one batch
                planned = {output.id: output for output in outputs[start : start + together]}
                fields = {id: self.targets.build(output) for id, output in planned.items()}
                for attempt in range(1, self.tries + 1):
                    now = [field for id, field in fields.items() if due[id] <= attempt]
                    for synthetic in self._sample(now, attempt, tell):
                        if self._write(synthetic, planned[synthetic.id], attempt, kept, apart, tell):
                            del fields[synthetic.id]

    def _sample(self, fields: Sequence[Sample], attempt: int, tell: Listener) -> Iterator[Synthetic]:
        return self.pipeline.sample(
            fields,
            seed=noise_seed(self.seed, attempt),
            batch=self.batch,
            on_step=lambda count: tell(Stepped(count)),
            **self.settings.model_dump(),
        )

    def _write(
        self,
        synthetic: Synthetic,
        output: PlannedOutput,
        attempt: int,
        kept: PairFolder,
        apart: PairFolder,
        tell: Listener,
    ) -> bool:
        """Measure a painting and write it where it belongs; whether it was kept."""
        target = synthetic.target
        # of masks that were changed there is no real image
        real = None if self.operations else self.targets.dataset.by_id(output.morphology).image
        adherence = measure(target, synthetic.image, real=real)
        agreement = None
        if self.segmenters:
            agreement = segmenter_agreement(self.segmenters, synthetic.image, target.masks)
        which = attempt if self.limits else None
        row = pair_row(
            self.pipeline, synthetic, adherence, output, seed=self.seed, attempt=which, agreement=agreement
        )
        verdict = judge(measures_of(row), self.limits)
        if verdict.kept:
            kept.add(synthetic, row)
        else:
            id = apart_id(target.id, attempt, self.tries)
            apart.add(synthetic, {**row, "id": id, REJECTED: verdict.reason})
        tell(Painted(target.id, adherence, verdict.reason, not verdict.kept and attempt < self.tries))
        return verdict.kept
