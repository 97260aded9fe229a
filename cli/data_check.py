"""`msdm-kit data check`."""

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import DataFolder, Workers

if TYPE_CHECKING:
    from rich.console import Console

    from ..plugins.checking import Report

EXAMPLES = (
    "\b\nExample:\n"
    "  msdm-kit data check data/lab --json findings.json\n"
    "  msdm-kit data check data/lab --fix data/lab-repaired"
)
ERRORS = 1


def check(
    folder: DataFolder,
    fix: Annotated[
        Path | None,
        typer.Option(metavar="OUT", help="Write a repaired copy, new or empty, and a log of every change."),
    ] = None,
    json: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write every finding, as .json or .csv."),
    ] = None,
    speck: Annotated[
        int, typer.Option(metavar="PIXELS", min=0, help="Instances of fewer pixels are specks.")
    ] = 10,
    workers: Workers = None,
) -> None:
    """Find what is wrong with a data set: files, instances, duplicates, leaks between splits, stains.

    Ends with status 1 where there are errors, after repairs those that are left in the copy. DIR is never
    changed.
    """
    from ..plugins.checking import check as examine
    from ..plugins.checks.report_file import finding_file
    from ..plugins.data import data_folder
    from ..plugins.new_folder import check_new
    from ..plugins.repairing import LOG, repair
    from .console import counted, output, say
    from .data_progress import DataProgress

    console = output()
    root = data_folder(folder)
    if fix is not None:
        check_new(fix, root)
    file: Any = finding_file(json) if json is not None else nullcontext(lambda finding: None)
    with file as sink, DataProgress(console, "checking") as progress:
        report = examine(root, speck=speck, workers=workers, on_progress=progress, sink=sink)
    _print(console, report)
    if json is not None:
        say(console, f"wrote {json}")
    if fix is not None:
        with DataProgress(console, "repairing") as progress:
            done = repair(root, fix, speck=speck, workers=workers, on_progress=progress)
        for what, count in sorted(done.changes.items()):
            say(console, f"{what}: {count}")
        left = f", {done.left_out} left out" if done.left_out else ""
        say(console, f"wrote {counted(done.fields, 'field')}{left} to {fix}; every change is in {fix / LOG}")
        with DataProgress(console, "checking the copy") as progress:
            report = examine(fix, speck=speck, workers=workers, on_progress=progress)
        say(console, f"the copy has {_sum(report)}" + ("; check it for the list" if report.errors else ""))
    if report.errors:
        raise typer.Exit(ERRORS)


def _print(console: "Console", report: "Report") -> None:
    from ..plugins.checking import SHOWN
    from ..plugins.checks.finding import KINDS
    from .console import counted, plain_table, printable, say

    for kind in report.kinds:
        about, count = KINDS[kind], report.counts[kind]
        say(console, f"{about.severity}: {about.title} ({kind}): {count}", style="bold")
        say(console, f"  legal: {about.legal}; {about.todo}")
        table = plain_table("", "", "")
        for finding in report.first[kind]:
            table.add_row(*(printable(f"{lead}{text}") for lead, text in (
                ("  ", finding.file), ("", finding.instance), ("", finding.value),
            )))  # fmt: skip
        console.print(table)
        if count > SHOWN:
            say(console, f"  and {count - SHOWN} more: see --json")
    say(console, f"{counted(report.fields, 'field')}: {_sum(report)}")


def _sum(report: "Report") -> str:
    from .console import counted

    if not report.counts:
        return "nothing is wrong"
    return f"{counted(report.errors, 'error')}, {counted(report.warnings, 'warning')}"
