"""What every segmenter owes its trainers and users, whoever wrote it."""

from pathlib import Path
from typing import ClassVar
from unittest import SkipTest

import numpy as np
import torch

from ...core.errors import MsdmError
from ...core.sample import Labels, Sample
from ..segmenters.base import Losses, Segmenter
from .case import Configured
from .fields import painted, toy_sample


class SegmenterConformance(Configured):
    """The checks of a segmenter. Give `settings` of a training of seconds.

    Where `Segmenter.check` says that it cannot begin here, for weights or a package that are missing, what
    needs it is skipped with that reason.
    """

    kind = "segmenter"
    base: ClassVar[type] = Segmenter
    mask_kind: ClassVar[str] = "nucleus"
    size: ClassVar[tuple[int, int]] = (64, 64)

    def fields(self) -> list[Sample]:
        """What it is trained on."""
        return [toy_sample(i, self.size, cells=2) for i in range(3)]

    def build(self) -> Segmenter:
        try:
            segmenter: Segmenter = self.load()(self.config(), self.mask_kind, torch.device("cpu"))
            segmenter.check()
        except MsdmError as error:
            raise SkipTest(f"segmenter {self.plugin!r}: {error}") from None
        return segmenter

    def fitted(self, seed: int = 0) -> tuple[Segmenter, Losses, list[tuple[int, int]]]:
        """One that is trained where it can be, its losses, and the progress that it told."""
        segmenter, told = self.build(), list[tuple[int, int]]()
        if not segmenter.trainable:
            return segmenter, Losses((0.0,)), [(0, 1), (1, 1)]
        losses = segmenter.fit(
            self.fields(), [], seed=seed, on_progress=lambda done, of: told.append((done, of))
        )
        return segmenter, losses, told

    def segment(self, segmenter: Segmenter) -> Labels:
        return segmenter.segment(painted(9, (53, 70), cells=3)[0])

    def test_begins_or_says_in_a_line_why_not(self) -> None:
        cls = self.load()
        try:
            cls(self.config(), self.mask_kind, torch.device("cpu")).check()
        except MsdmError as error:
            self.check("\n" not in str(error), "`check` says more than one line")
        can = cls.trainable or cls.pretrained
        self.check(can, "is neither trainable nor pretrained; it can never segment")

    def test_is_fitted_segments_and_comes_back_from_its_file(self, tmp_path: Path) -> None:
        segmenter, losses, told = self.fitted()
        self.check(losses.train and np.isfinite(losses.train).all(), f"its losses are {losses.train}")
        done = bool(told) and told[0][0] == 0 and told[-1][0] == told[-1][1]
        self.check(done, f"progress goes from 0 to all epochs, and it told {told[:1]} to {told[-1:]}")
        labels = self.segment(segmenter)
        self.check(labels.shape == (53, 70), f"an image of 53 x 70 became labels of {labels.shape}")
        self.check(labels.dtype == np.int32, f"its labels are {labels.dtype}; give int32")
        found = np.unique(labels[labels > 0])
        gapless = labels.min() >= 0 and np.array_equal(found, np.arange(1, len(found) + 1))
        self.check(gapless, "its labels are not 1 to n without gaps")
        self.check(np.array_equal(self.segment(segmenter), labels), "it segments otherwise the second time")
        segmenter.save(tmp_path / "weights.safetensors")
        twin = self.load()(self.config(), self.mask_kind, torch.device("cpu"))
        twin.load(tmp_path / "weights.safetensors")
        self.check(np.array_equal(self.segment(twin), labels), "segments otherwise after saving and loading")

    def test_the_same_seed_gives_the_same_weights(self) -> None:
        (_, a, _), (_, b, _) = self.fitted(), self.fitted()
        self.check(a.train == b.train, "the same seed gives another training")

    def test_what_is_wrong_is_a_message(self, tmp_path: Path) -> None:
        segmenter = self.build()
        (tmp_path / "damaged").write_bytes(b"no weights")
        for name in ("missing", "damaged"):
            self._refuses(lambda name=name: segmenter.load(tmp_path / name), f"a {name} file of weights")
        if segmenter.trainable:
            empty = [toy_sample(0, self.size, cells=0)]
            self._refuses(lambda: segmenter.fit(empty, [], seed=0), "fields without an instance")

    def _refuses(self, call: object, what: str) -> None:
        try:
            call()  # type: ignore[operator]
        except MsdmError as error:
            self.check("\n" not in str(error), f"its message on {what} is more than a line")
        except Exception as error:
            raise AssertionError(
                f"segmenter {self.plugin!r}: {what} raises {type(error).__name__}; raise MsdmError"
            ) from error
        else:
            self.check(False, f"{what} is taken; raise MsdmError")
