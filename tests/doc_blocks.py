"""Fenced blocks of Markdown pages, and the commands in them."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(r"^```([^\s`]*)[^\n]*\n(.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)
MARK = re.compile(r"<!-- (not run|run by): ([^\n]+?) -->\n+\Z")
OPERATORS = {"&&", "||", ";", "|", "&", "<", ">>"}


@dataclass(frozen=True)
class Block:
    """A fenced block; `mark` is the comment before it that says why the page's test does not run it."""

    line: int
    language: str
    text: str
    mark: tuple[str, str] | None


def read_blocks(text: str) -> list[Block]:
    """Every fenced block of a page, in order."""
    found = []
    for match in FENCE.finditer(text):
        mark = MARK.search(text, 0, match.start())
        why = (mark[1], mark[2]) if mark else None
        found.append(Block(text.count("\n", 0, match.start()) + 1, match[1], match[2], why))
    return found


@dataclass(frozen=True)
class Command:
    """Words of a command, and the file that its output goes into, if any."""

    words: tuple[str, ...]
    into: str | None = None


def commands(text: str) -> Iterator[Command]:
    """The commands of a bash block: words, quotes, `\\`, comments, `&&` and `>`, and nothing else of bash."""
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, "&&"]:
            if word == "&&":
                if words:
                    yield _command(words)
                words = []
            elif word in OPERATORS:
                raise ValueError(f"{word} in {line!r} is more of bash than is run here")
            else:
                words.append(word)


def _command(words: list[str]) -> Command:
    if ">" in words:
        *words, sign, into = words
        assert sign == ">"
        return Command(tuple(words), into)
    return Command(tuple(words))


def spoken_commands(text: str) -> Iterator[str]:
    """What stands in backticks outside blocks and begins with `msdm-kit `."""
    for span in re.findall(r"`([^`]+)`", FENCE.sub("", text)):
        if span.startswith("msdm-kit "):
            yield " ".join(span.replace("\\|", "|").split())


def pages(checkout: Path) -> list[Path]:
    """The pages whose blocks are run, and whose links are followed."""
    found = [checkout / "README.md", checkout / "CONTRIBUTING.md", *sorted((checkout / "docs").rglob("*.md"))]
    return [*found, *sorted((checkout / "examples").glob("*/README.md"))]
