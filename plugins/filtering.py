"""The quality filter: which paintings are kept, by what was measured of them.

A measure is a number under the name of its column in the manifest. Another judge of a painting is one more
measure and one more limit.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..core.errors import MsdmError
from ..core.seeds import seed_for

AGREEMENT = "segmenter_agreement"
"""The measure that `agreement.segmenter_agreement` takes."""


@dataclass(frozen=True)
class Limit:
    """What a measure must be for a painting to be kept.

    Attributes
    ----------
    measure : str
        A column of the manifest.
    bound : float
        A painting that lies on it is kept.
    least : bool
        True: the bound is the least that is kept, otherwise the most.
    """

    measure: str
    bound: float
    least: bool = True

    def passes(self, value: float) -> bool:
        """Whether `value` is within the bound."""
        return value >= self.bound if self.least else value <= self.bound

    def __str__(self) -> str:
        return f"{self.measure} {'>=' if self.least else '<='} {self.bound:g}"


@dataclass(frozen=True)
class Thresholds:
    """The limits that a sampling job may be given; None is no limit.

    Attributes
    ----------
    min_adherence : float or None
        Least mask adherence (`metrics.adherence.mask_adherence`, a Dice coefficient), 0 to 1.
    min_agreement : float or None
        Least agreement of segmenters' masks with those that were painted (`agreement.segmenter_agreement`,
        an F1), 0 to 1.
    max_colour_error : float or None
        Largest colour error (`metrics.adherence.colour_adherence`) in levels, 0 to 255.

    Raises
    ------
    MsdmError
        A threshold is out of its range.
    """

    min_adherence: float | None = None
    max_colour_error: float | None = None
    min_agreement: float | None = None

    def __post_init__(self) -> None:
        for option, value, most, what in (
            ("--min-adherence", self.min_adherence, 1, "mask adherence is a Dice coefficient"),
            ("--min-agreement", self.min_agreement, 1, "the agreement of a segmenter's masks is an F1"),
            ("--max-colour-error", self.max_colour_error, 255, "the colour error is in levels of 255"),
        ):
            if value is not None and not 0 <= value <= most:
                raise MsdmError(f"{option} {value:g}: {what}; give a number from 0 to {most}")

    @property
    def limits(self) -> tuple[Limit, ...]:
        """Those that are given."""
        limits = []
        if self.min_adherence is not None:
            limits.append(Limit("mask_adherence", self.min_adherence))
        if self.min_agreement is not None:
            limits.append(Limit(AGREEMENT, self.min_agreement))
        if self.max_colour_error is not None:
            limits.append(Limit("colour_error_levels", self.max_colour_error, least=False))
        return tuple(limits)


KEEP_ALL = Thresholds()
"""No limits: nothing is rejected."""


@dataclass(frozen=True)
class Verdict:
    """Whether a painting is kept.

    Attributes
    ----------
    failed : mapping measure -> str
        Why it is rejected: ``{"mask_adherence": "mask_adherence 0.4123 < 0.6"}``; empty where it is kept.
    unmeasured : tuple of str
        Measures with a limit that could not be taken.
    """

    failed: Mapping[str, str]
    unmeasured: tuple[str, ...] = ()

    @property
    def kept(self) -> bool:
        return not self.failed

    @property
    def reason(self) -> str:
        """Why it is rejected, in one line."""
        return "; ".join(self.failed.values())


def judge(measures: Mapping[str, float | None], limits: Sequence[Limit]) -> Verdict:
    """Hold a painting against limits.

    Parameters
    ----------
    measures : mapping measure -> float or None
        None, NaN or absent: it could not be measured. That rejects nothing, as it says nothing of the
        painting: a field without nuclei has no nuclei to be missed.
    limits : sequence of Limit

    Returns
    -------
    Verdict

    Examples
    --------
    >>> judge({"mask_adherence": 0.5}, [Limit("mask_adherence", 0.6)]).reason
    'mask_adherence 0.5 < 0.6'
    """
    failed: dict[str, str] = {}
    unmeasured: list[str] = []
    for limit in limits:
        value = measures.get(limit.measure)
        if value is None or math.isnan(value):
            unmeasured.append(limit.measure)
        elif not limit.passes(value):
            sign = "<" if limit.least else ">"
            failed[limit.measure] = f"{limit.measure} {value:.6g} {sign} {limit.bound:g}"
    return Verdict(failed, tuple(unmeasured))


def noise_seed(seed: int, attempt: int) -> int:
    """The seed of an attempt's noise: the job's own for the first, another for each further one.

    Parameters
    ----------
    seed : int
        Of the job.
    attempt : int
        From 1; the column ``try`` of the manifest.
    """
    return seed if attempt == 1 else seed_for(seed, "try", attempt)


@dataclass
class Acceptance:
    """What the filter of a sampling job did; it counts as the job goes on.

    Attributes
    ----------
    limits : tuple of Limit
    tries : int
        Most paintings of an output.
    accepted : int
        Outputs that were kept.
    rejected : int
        Outputs of which no painting was kept.
    paintings : int
        All that were painted: kept ones, and every rejected try.
    not_measured : int
        Outputs that were kept although a limit could not be held against them.
    reasons : Counter of str
        Rejected paintings by the measure that they failed; one may fail several.
    """

    limits: tuple[Limit, ...]
    tries: int = 1
    accepted: int = 0
    rejected: int = 0
    paintings: int = 0
    not_measured: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    def count(self, verdict: Verdict, *, again: bool) -> None:
        """Count a painting; `again` where its output will be painted once more."""
        self.paintings += 1
        self.accepted += verdict.kept
        self.rejected += not verdict.kept and not again
        self.not_measured += verdict.kept and bool(verdict.unmeasured)
        self.reasons.update(verdict.failed.keys())

    @property
    def rate(self) -> float | None:
        """Acceptance rate: paintings that were kept, of all; None before the first."""
        return self.accepted / self.paintings if self.paintings else None

    def report(self) -> dict[str, Any]:
        """The counts, for ``summary.json``."""
        return {
            "limits": [str(limit) for limit in self.limits],
            "tries": self.tries,
            "accepted": self.accepted,
            "rejected": self.rejected,
            "paintings": self.paintings,
            "rejected_paintings": self.paintings - self.accepted,
            "acceptance_rate": self.rate,
            "kept_unmeasured": self.not_measured,
            "rejected_paintings_by_measure": {
                limit.measure: self.reasons[limit.measure] for limit in self.limits
            },
        }
