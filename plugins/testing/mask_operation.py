"""What every mask operation owes those who chain them, whoever wrote it."""

from typing import ClassVar

import numpy as np

from ...core.sample import Labels
from ..mask_operations.base import Grown, MaskOperation
from ..mask_operations.units import Masks
from .case import Configured
from .fields import painted
from .pickling import arrived

SIZES = ((40, 48), (31, 31), (1, 5))


class MaskOperationConformance(Configured):
    """The checks of a mask operation, on fields of several sizes, with and without instances."""

    kind = "mask_operation"
    base: ClassVar[type] = MaskOperation

    def build(self) -> MaskOperation:
        operation: MaskOperation = self.load()(self.config())
        return operation

    def fields(self) -> list[tuple[Masks, Masks]]:
        """Masks, and those of another field of the same size."""
        found: list[tuple[Masks, Masks]] = []
        for size in SIZES:
            for cells in (0, 1, 4):
                found.append((painted(cells, size, cells)[1], painted(9, size, 2)[1]))
        return found

    def apply(
        self, masks: Masks, other: Masks, seed: int = 0, operation: MaskOperation | None = None
    ) -> Masks:
        operation = operation or self.build()
        rng = np.random.default_rng(seed)
        return operation.apply(masks, rng, other if operation.needs_other else None)

    def test_every_kind_comes_back_at_its_size(self) -> None:
        for masks, other in self.fields():
            before = {
                k: v.copy() for k, v in (*masks.items(), *((f"other {k}", v) for k, v in other.items()))
            }
            out = self.apply(masks, other)
            self.check(out.keys() == masks.keys(), f"kinds {sorted(masks)} became {sorted(out)}")
            for kind, labels in out.items():
                shape = masks[kind].shape
                self.check(labels.shape == shape, f"{kind}: {shape} became {labels.shape}")
                self.check(labels.dtype == np.int32, f"{kind}: labels are {labels.dtype}; give int32")
                self.check(labels.min() >= 0, f"{kind}: a label is below 0")
            kept = all(np.array_equal(masks[k], before[k]) for k in masks)
            kept &= all(np.array_equal(other[k], before[f"other {k}"]) for k in other)
            self.check(kept, "it changes an array that it is given")

    def test_draws_from_the_generator_alone(self) -> None:
        for masks, other in self.fields():
            a, b = (self.apply(masks, other) for _ in range(2))
            self.check(_equal(a, b), "the same generator gives other masks")
            sent = self.apply(masks, other, operation=arrived(self.build()))
            self.check(_equal(sent, a), "gives other masks in a process")

    def test_nuclei_stay_in_their_cells(self) -> None:
        for masks, other in self.fields():
            for seed in range(5):
                out = self.apply(masks, other, seed)
                inside = out["nucleus"] > 0
                astray = (out["cell"][inside] != out["nucleus"][inside]).sum()
                self.check(not astray, f"{astray} pixels of nuclei leave the cells whose label they have")

    def test_new_instances_say_what_they_were_made_of(self) -> None:
        for masks, other in self.fields():
            out = self.apply(masks, other, 1)
            for kind, labels in out.items():
                old, theirs = _labels(masks[kind]), _labels(other[kind])
                copies = dict(out.copies.get(kind, {})) if isinstance(out, Grown) else {}
                pasted = dict(out.pasted.get(kind, {})) if isinstance(out, Grown) else {}
                unknown = _labels(labels) - old - copies.keys() - pasted.keys()
                self.check(
                    not unknown, f"{kind}: new labels {sorted(unknown)}; return Grown with their origins"
                )
                self.check(set(copies.values()) <= old, f"{kind}: copies of labels that the field has not")
                self.check(set(pasted.values()) <= theirs, f"{kind}: pasted of labels that the other has not")


def _labels(mask: Labels) -> set[int]:
    return set(np.unique(mask[mask > 0]).tolist())


def _equal(a: Masks, b: Masks) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)
