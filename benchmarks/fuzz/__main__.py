"""Hostile input for every reader: what it must never do is hang, crash, take memory, or write elsewhere.

    python -m benchmarks.fuzz
    python -m benchmarks.fuzz --engine atheris --only COCO --inputs 20000

Each target is a reader with whole files in its format. `mutate` changes them as their format is built (a tag
of a TIFF, a place in a tree of JSON, a member of a ZIP, checksums made right again); `atheris` has libFuzzer
choose among such changes and its own by the lines of Python that an input reaches. Every input has 5 s of
processor time and the target's memory; what is written outside of one folder, a process that is begun, a
connection, a pickle, a line that is printed, an exception other than `MsdmError`: each is a finding.
`pip install atheris` for the second engine.
"""

import argparse
import base64
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from .loop import run_target
from .targets import TARGETS

ENGINES = ("mutate", "atheris")


def main() -> None:
    """Fuzz, and print a table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fuzz",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", metavar="TARGET", help="by name; none of them is all")
    parser.add_argument("--engine", choices=ENGINES, default="mutate")
    parser.add_argument("--inputs", type=int, help="per target, instead of its own number")
    parser.add_argument("--share", type=float, default=1.0, help="of each target's number of inputs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="a folder for inputs that are findings")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    names = [target.name for target in TARGETS]
    if unknown := set(options.only or ()) - set(names):
        parser.error(f"no target {min(unknown)!r}; there are: {', '.join(names)}")
    chosen = [t for t in TARGETS if not options.only or t.name in options.only]
    if options.child is not None:
        (target,) = chosen
        run_target(target, options.engine, options.inputs, options.seed, options.child)
        return
    print("| target | engine | inputs | per second | peak MiB | findings |")
    print("|---|---|---:|---:|---:|---|")
    bad = 0
    for target in chosen:
        inputs = options.inputs or max(1, int(target.inputs * options.share))
        found = _in_a_process(target.name, options.engine, inputs, options.seed, options.keep)
        findings = "; ".join(found["findings"]) or "none"
        bad += len(found["findings"])
        print(
            f"| {target.name} | {options.engine} | {found['inputs']} | {found['rate']:.0f} | "
            f"{found['peak'] / 2**20:.0f} | {findings} |",
            flush=True,
        )
    sys.exit(1 if bad else 0)


def _in_a_process(name: str, engine: str, inputs: int, seed: int, keep: Path | None) -> dict:  # type: ignore[type-arg]
    """What a target's own process found; that it ended before it should is a finding."""
    with tempfile.TemporaryDirectory() as folder:
        state, log = Path(folder) / "state.json", Path(folder) / "log.txt"
        words = [
            sys.executable,
            "-m",
            "benchmarks.fuzz",
            "--child",
            folder,
            f"--only={name}",
            "--engine",
            engine,
        ]
        with log.open("wb") as handle:
            done = subprocess.run(
                [*words, "--inputs", str(inputs), "--seed", str(seed)],
                stdout=handle,
                stderr=handle,
                check=False,
            )
        found = json.loads(state.read_text(encoding="utf-8")) if state.is_file() else {}
        found = {"inputs": 0, "rate": 0.0, "peak": 0, "findings": {}, "done": False} | found
        if done.returncode or not found["done"]:
            last = Path(folder) / "current"
            data = last.read_bytes() if last.is_file() else b""
            found["findings"]["the process ended"] = base64.b64encode(data).decode()
            print(log.read_text(encoding="utf-8", errors="replace")[-2000:], file=sys.stderr)
        if keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
            for k, (what, data) in enumerate(found["findings"].items()):
                stem = "".join(c if c.isalnum() else "_" for c in f"{name}-{engine}-{k}")
                (keep / f"{stem}.bin").write_bytes(base64.b64decode(data))
                (keep / f"{stem}.txt").write_text(what + "\n", encoding="utf-8")
        return found


if __name__ == "__main__":
    main()
