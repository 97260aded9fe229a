"""How long the rest takes: declared costs, set right by what has been measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .steps import Step

CERTAIN = 0.25
"""The share of a step that must be done before others are expected to go at its speed."""


@dataclass(frozen=True)
class Running:
    """A step that is under way: seconds so far, and the share that is done."""

    seconds: float
    share: float


class Forecast:
    """Remaining time of an experiment.

    Parameters
    ----------
    steps : sequence of Step
        In an order in which they can be done.
    workers : int
        Processes.
    """

    def __init__(self, steps: Sequence[Step], workers: int) -> None:
        self.steps = steps
        self.workers = workers
        self._jobs = {step.name: step.job for step in steps}
        self._cost = {step.name: step.cost for step in steps}
        self._measured: dict[str, float] = {}
        self.urgency = urgency(steps)

    def measured(self, name: str, seconds: float) -> None:
        """A step is done and took so long."""
        self._measured[name] = seconds

    def ratio(self, job: str, running: Mapping[str, Running]) -> float:
        """Seconds per declared second of steps of a job; of all steps where none of its kind is known."""
        seen = dict(self._measured)
        costs = {name: self._cost[name] for name in seen}
        for name, under_way in running.items():
            if under_way.share >= CERTAIN:
                seen[name], costs[name] = under_way.seconds, self._cost[name] * under_way.share
        own = [name for name in seen if self._jobs[name] == job]
        names = own or list(seen)
        declared = sum(costs[name] for name in names)
        return sum(seen[name] for name in names) / declared if declared else 1.0

    def left(self, name: str, running: Mapping[str, Running]) -> float:
        """Seconds that a step still takes; 0 where it is done."""
        if name in self._measured:
            return 0.0
        expected = self._cost[name] * self.ratio(self._jobs[name], running)
        if name not in running:
            return expected
        now = running[name]
        # what it began with need not go at the speed of the rest: its own speed counts by what is done of it
        expected = max(expected, now.seconds)
        whole = (1 - now.share) * expected + now.seconds if now.share else expected
        return max(whole - now.seconds, 0.05 * expected * (1 - now.share))

    def share(self, running: Mapping[str, Running]) -> float:
        """How much of all work is done, 0 to 1."""
        left = sum(self.left(step.name, running) for step in self.steps)
        spent = sum(self._measured.values()) + sum(one.seconds for one in running.values())
        return spent / (spent + left) if spent + left else 1.0

    def remaining(self, running: Mapping[str, Running]) -> float:
        """Seconds until all is done: the schedule is played through with what each step still takes."""
        left = {step.name: self.left(step.name, running) for step in self.steps}
        ends = {name: 0.0 for name in self._measured}
        now = 0.0
        under_way = {name: left[name] for name in running}
        waiting = [step for step in self.steps if step.name not in ends and step.name not in running]
        while waiting or under_way:
            ready = [step for step in waiting if all(name in ends for name in step.needs)]
            ready.sort(key=lambda step: -self.urgency[step.name])
            for step in ready[: max(0, self.workers - len(under_way))]:
                under_way[step.name] = now + left[step.name]
                waiting.remove(step)
            first = min(under_way, key=under_way.__getitem__)
            now = under_way.pop(first)
            ends[first] = now
        return now


def urgency(steps: Sequence[Step]) -> dict[str, float]:
    """The cost of the longest chain of steps that begins with each: what has most behind it goes first."""
    found: dict[str, float] = {}
    for step in reversed(steps):
        found[step.name] = step.cost + max(
            (found[other.name] for other in steps if step.name in other.needs), default=0.0
        )
    return found
