"""Steps are done once, in order of need, in several processes, and stop cleanly."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msdm_kit.core.errors import MsdmError
from msdm_kit.plugins.experiment.forecast import Forecast, Running, urgency
from msdm_kit.plugins.experiment.runner import run_steps
from msdm_kit.plugins.experiment.steps import Ledger, Step, ordered

JOBS = '''\
import os
import signal
import threading
import time

from msdm_kit.core.errors import MsdmError
from msdm_kit.plugins.experiment.steps import Stopped


def note(task, word):
    """Which step ran, where, and from when to when; outside of its folder."""
    with open(task.step.context["log"], "a") as log:
        log.write(f"{word} {task.step.name} {os.getpid()} {task.device}\\n")


def add(task):
    note(task, "began")
    time.sleep(task.step.context.get("seconds", 0))
    task.report(0.5)
    found = sum(int((task.ledger.folder(n) / "number").read_text()) for n in task.step.needs)
    (task.folder / "number").write_text(str(found + task.step.settings["number"]))
    print("added", task.step.name)
    note(task, "ended")


def count(task):
    """Counts up to ten, one each 50 ms, from where it was when it was stopped."""
    stop = threading.Event()
    signal.signal(signal.SIGINT, lambda *_: stop.set())
    note(task, "began")
    path = task.folder / "number"
    done = int(path.read_text()) if path.exists() else 0
    while done < 10:
        done += 1
        time.sleep(0.05)
        path.write_text(str(done))
        task.report(done / 10)
        if stop.is_set():
            raise Stopped
    note(task, "ended")


def fail(task):
    raise MsdmError("two and two are five; count again")


def fail_late(task):
    """Fails once the step `slow` has begun to count."""
    while not (task.ledger.folder("slow") / "number").exists():
        time.sleep(0.02)
    fail(task)


def crash(task):
    (task.folder / "half").write_text("half")
    raise ValueError("no such\\nnumber")


def die(task):
    os._exit(9)


def kill_others(task):
    """Ends the processes that have done other steps and wait for more."""
    note(task, "began")
    with open(task.step.context["log"]) as log:
        others = {int(line.split()[2]) for line in log} - {os.getpid()}
    for pid in others:
        os.kill(pid, signal.SIGKILL)
    time.sleep(0.3)  # that they are gone
    (task.folder / "number").write_text(str(len(others)))


JOBS = {f.__name__: f for f in (add, count, fail, fail_late, crash, die, kill_others)}
'''


@pytest.fixture
def jobs(tmp_path, monkeypatch):
    """The module of the jobs, which the processes import."""
    (tmp_path / "toy_jobs.py").write_text(JOBS)
    monkeypatch.syspath_prepend(tmp_path)
    return "toy_jobs"


class Toy:
    """Steps whose job is `add`, and the log of what ran."""

    def __init__(self, root: Path, jobs: str) -> None:
        self.root, self.jobs, self.log = root / "steps", jobs, root / "log"

    def step(self, name: str, *needs: str, number: int = 1, job: str = "add", **more: object) -> Step:
        context = {"log": str(self.log), **more.pop("context", {})}
        return Step(name, job, {"number": number}, needs, ("number",), context=context, **more)

    def run(self, steps, processes=2, **options):
        return run_steps(steps, self.root, ["cpu"] * processes, jobs=self.jobs, **options)

    def ran(self, word="began") -> Counter:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return Counter(line.split()[1] for line in lines if line.split()[0] == word)

    def number(self, name: str) -> int:
        return int((self.root / name / "number").read_text())


@pytest.fixture
def toy(tmp_path, jobs):
    return Toy(tmp_path, jobs)


def diamond(toy, **numbers):
    one = {name: toy.step(name, *needs, number=numbers.get(name, 1)) for name, needs in
           (("a", ()), ("b", ("a",)), ("c", ("a",)), ("d", ("b", "c")), ("e", ()))}  # fmt: skip
    return list(one.values())


def test_each_step_runs_once_and_after_what_it_needs(toy):
    done = toy.run(diamond(toy))
    assert set(done) == {"a", "b", "c", "d", "e"}
    assert toy.number("d") == 1 + 2 * (1 + 1)  # b and c are 2 each
    assert toy.ran() == Counter("abcde")
    order = [line.split()[1] for line in toy.log.read_text().splitlines() if line.startswith("ended")]
    assert order.index("a") < min(order.index("b"), order.index("c"))
    assert order.index("d") > max(order.index("b"), order.index("c"))
    assert "added d" in (toy.root / "d" / "log.txt").read_text()

    toy.run(diamond(toy))
    assert toy.ran() == Counter("abcde")  # again does nothing

    toy.run([*diamond(toy), toy.step("f", "e")])
    assert toy.ran() == Counter("abcdef")  # one more does that one

    toy.run(diamond(toy, b=5))
    assert toy.ran() == Counter("abcdefbd")  # a change does what depends on it
    assert toy.number("d") == 1 + 6 + 2


def test_outputs_that_come_out_the_same_are_the_end_of_a_change(toy):
    steps = diamond(toy)
    toy.run(steps, 1)
    (toy.root / "a" / "done.json").unlink()  # lost, and made again as it was
    toy.run(steps, 1)
    assert toy.ran() == Counter("abcdea")


def test_what_a_step_needs_no_more_stays_done(toy):
    steps = diamond(toy)
    toy.run(steps, 1)
    toy.run(steps[:3], 1)
    toy.run(steps, 1)
    assert toy.ran() == Counter("abcde")


def test_two_processes_run_at_once(toy):
    steps = [toy.step(name, context={"seconds": 0.4}) for name in "abcd"]
    toy.run(steps)
    lines = [line.split() for line in toy.log.read_text().splitlines()]
    assert len({pid for _, _, pid, _ in lines}) == 2
    under_way, most = 0, 0
    for word, *_ in lines:
        under_way += 1 if word == "began" else -1
        most = max(most, under_way)
    assert most == 2


@pytest.mark.parametrize(
    ("job", "reason"),
    [
        ("fail", "two and two are five; count again"),
        ("crash", "ValueError: no such number"),
        ("die", "its process died (status 9)"),
    ],
)
def test_a_failure_names_the_step_and_its_log(toy, job, reason):
    steps = [toy.step("a"), toy.step("bad", "a", job=job), toy.step("c", "bad")]
    with pytest.raises(MsdmError) as caught:
        toy.run(steps)
    text = str(caught.value)
    assert text.startswith("step bad failed: ")
    assert reason in text
    assert str(toy.root / "bad" / "log.txt") in text
    assert "\n" not in text
    assert toy.ran() == Counter("a")
    # mended, it begins anew in an empty folder, and what was done is kept
    toy.run([toy.step("a"), toy.step("bad", "a"), toy.step("c", "bad")])
    assert toy.ran() == Counter(["a", "bad", "c"])
    assert not (toy.root / "bad" / "half").exists()


def test_a_failure_lets_what_can_go_on_later_save(toy):
    steps = [
        toy.step("slow", job="count", resumable=True),
        toy.step("a"),
        toy.step("bad", "a", job="fail_late"),
    ]
    with pytest.raises(MsdmError, match="two and two"):
        toy.run(steps)
    reached = toy.number("slow")
    assert reached >= 1
    assert "slow" not in Ledger(toy.root).states(steps)
    done = toy.run(steps[:2])
    assert toy.number("slow") == 10
    # both parts together: it did not begin anew
    assert done["slow"].seconds > 0.45
    assert json.loads((toy.root / "slow" / "begun.json").read_text())["seconds"] > 0


SCRIPT = """\
import sys
from pathlib import Path
sys.path.insert(0, {folder!r})
from msdm_kit.plugins.experiment.runner import run_steps
from msdm_kit.plugins.experiment.steps import Step
if __name__ == "__main__":
    context, sleep = {{"log": {log!r}}}, {{"seconds": {seconds}}}
    steps = [
        Step("a", "add", {{"number": 1}}, (), ("number",), context=context),
        Step("slow", "count", {{"number": 1}}, ("a",), ("number",), resumable=True, context=context),
        Step("sleeps", "add", {{"number": 1}}, ("a",), ("number",), context={{**context, **sleep}}),
        Step("last", "add", {{"number": 1}}, ("slow", "sleeps"), ("number",), context=context),
    ]
    run_steps(steps, Path({root!r}), ["cpu", "cpu"], jobs="toy_jobs")
"""


def start(toy, tmp_path, seconds):
    script = tmp_path / "script.py"
    told = {"folder": str(tmp_path), "log": str(toy.log), "root": str(toy.root), "seconds": seconds}
    script.write_text(SCRIPT.format(**told))
    return subprocess.Popen(
        [sys.executable, str(script)],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def wait_for(condition, seconds=60.0):
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "it never came"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")
    return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["killed", "Ctrl-C"])
def test_an_interrupted_run_goes_on_and_leaves_no_process(toy, tmp_path, how):
    process = start(toy, tmp_path, seconds=30)
    wait_for(lambda: (toy.root / "slow" / "number").exists() and toy.ran()["sleeps"] == 1)
    process.send_signal(how)
    process.communicate(timeout=60)
    assert process.returncode != 0
    pids = {int(line.split()[2]) for line in toy.log.read_text().splitlines()}
    wait_for(lambda: not any(map(alive, pids)))
    reached = toy.number("slow")
    assert reached >= 1

    process = start(toy, tmp_path, seconds=0)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert toy.ran("ended") == Counter(["a", "slow", "sleeps", "last"])  # nothing is done twice
    assert toy.ran()["a"] == 1
    assert toy.number("last") == 1 + 10 + 2


def test_a_process_that_dies_while_it_waits_is_replaced_on_its_device(toy):
    slow = {"seconds": 0.3}
    steps = [
        toy.step("a", context=slow),
        toy.step("b", context=slow),
        toy.step("killer", "a", "b", job="kill_others"),
        toy.step("c", "killer", context=slow),
        toy.step("d", "killer", context=slow),
    ]
    run_steps(steps, toy.root, ["first", "second"], jobs=toy.jobs)
    assert toy.number("killer") == 1
    lines = [line.split() for line in toy.log.read_text().splitlines()]
    assert {device for _, name, _, device in lines if name in "ab"} == {"first", "second"}
    assert {device for _, name, _, device in lines if name in "cd"} == {"first", "second"}


def test_progress_tells_all_and_ends_at_one(toy):
    told = []
    toy.run(diamond(toy), listener=told.append)
    assert [p.finished for p in told if p.finished is not None] != []
    assert Counter(p.finished for p in told if p.finished) == Counter("abcde")
    last = told[-1]
    assert (last.done, last.total, last.share, last.remaining) == (5, 5, 1.0, 0.0)
    assert all(0 <= p.share <= 1 for p in told)


def test_a_folder_without_its_marker_is_not_done(toy):
    steps = diamond(toy)
    toy.run(steps, 1)
    for text in ("", "{", "[]", '{"inputs": 3}'):
        (toy.root / "e" / "done.json").write_text(text)
        assert "e" not in Ledger(toy.root).states(steps)


def test_steps_are_ordered_and_circles_refused():
    a, b, c = Step("a", "x", needs=("b",)), Step("b", "x", needs=("c",)), Step("c", "x")
    assert [step.name for step in ordered([a, b, c])] == ["c", "b", "a"]
    with pytest.raises(ValueError, match="a can never be done"):
        ordered([a, b])


def chain(costs):
    return [Step(f"s{i}", "j", needs=(f"s{i - 1}",) if i else (), cost=c) for i, c in enumerate(costs)]


def test_the_longest_chain_is_urgent():
    steps = [*chain([1, 2, 3]), Step("alone", "j", cost=4)]
    assert urgency(steps) == {"s0": 6, "s1": 5, "s2": 3, "alone": 4}


def test_remaining_time_of_known_schedules():
    alone = [Step(name, "j", cost=10) for name in "abcd"]
    assert Forecast(alone, 1).remaining({}) == 40
    assert Forecast(alone, 2).remaining({}) == 20
    assert Forecast(alone, 3).remaining({}) == 20
    assert Forecast(chain([10, 10, 10]), 4).remaining({}) == 30
    half = Forecast(alone, 2)
    half.measured("a", 5.0)  # twice as fast as declared
    assert half.remaining({}) == 10
    # others at (5 + 2) / (10 + 5) of what was declared: 14 / 3; b in all half of that and half of its own 4
    assert half.left("b", {"b": Running(2.0, 0.5)}) == pytest.approx(7 / 3 + 2 - 2)
    assert half.remaining({"b": Running(2.0, 0.5)}) == pytest.approx(7 / 3 + 14 / 3)
    assert half.share({}) == pytest.approx(5 / 20)
    for name in "bcd":
        half.measured(name, 5.0)
    assert (half.remaining({}), half.share({})) == (0, 1)


@given(
    st.lists(st.floats(0.1, 100), min_size=1, max_size=8),
    st.integers(1, 4),
    st.floats(0.1, 10),
)
def test_remaining_time_lies_between_its_bounds(costs, workers, ratio):
    steps = [Step(f"s{i}", "j", cost=c) for i, c in enumerate(costs)]
    forecast = Forecast(steps, workers)
    forecast.measured("s0", costs[0] * ratio)
    left = [c * ratio for c in costs[1:]]
    found = forecast.remaining({})
    assert found >= max([sum(left) / workers, max(left, default=0.0)]) * (1 - 1e-9)
    assert found <= sum(left) * (1 + 1e-9)
