"""Where the commands print."""

import os
import sys

from rich.console import Console
from rich.table import Table


def output() -> Console:
    """Standard output: coloured on a terminal, plain and never wrapped short elsewhere.

    Of the processes of a job only the leader prints.
    """
    terminal = sys.stdout.isatty()
    return Console(
        file=sys.stdout,
        quiet="WORLD_SIZE" in os.environ and os.environ.get("RANK", "0") != "0",
        force_terminal=terminal,
        no_color=None if terminal else True,
        width=None if terminal else 160,
        highlight=False,
        markup=False,
        emoji=False,
    )


def say(console: Console, text: str, style: str | None = None) -> None:
    """A line as it is: no markup is read in it, and it is not wrapped, so that it can be copied."""
    console.print(text, style=style, soft_wrap=True)


def plain_table(*columns: str, numbers: tuple[str, ...] = ()) -> Table:
    """A table without a frame; `numbers` are the columns that stand right."""
    table = Table(box=None, pad_edge=False, header_style="bold", show_header=any(columns))
    for name in columns:
        table.add_column(name, justify="right" if name in numbers else "left", overflow="fold")
    return table


def counted(count: int, what: str) -> str:
    """A number of things, named in the singular.

    Examples
    --------
    >>> counted(1, "field"), counted(0, "field")
    ('1 field', '0 fields')
    """
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def printable(text: str) -> str:
    """Text from a user's file without control characters, which a terminal would obey."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def gigabytes(size: int) -> str:
    """Bytes as text, in binary units."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**27 else f"{size / 2**20:.1f} MiB"
