"""Every block of code in the documentation does what it says: each page is run, block by block, in a folder.

What is made smaller than a page says stands in `doc_tables.py`; what is not run, in comments of the pages.
"""

import ast
import json
import os
import re
import shlex
import sys
import tomllib
from collections import Counter
from contextlib import nullcontext, redirect_stdout
from pathlib import Path

import pytest
import torch
import yaml
from typer.main import get_command

from msdm_kit.cli.main import app, run
from msdm_kit.core.errors import MsdmError
from msdm_kit.plugins.check import check_plugins
from msdm_kit.plugins.experiment.plan_files import load_plan
from msdm_kit.plugins.mask_operations.apply import load_operations
from msdm_kit.plugins.recipe_files import load_recipe

from .doc_blocks import Block, Command, commands, pages, read_blocks, spoken_commands
from .doc_tables import ADDED, GIVEN, NOT_RUN, SET_UP, SMALLER
from .doc_world import World

CHECKOUT = Path(os.environ.get("MSDM_KIT_CHECKOUT", Path(__file__).resolve().parents[1]))
PAGES = {str(path.relative_to(CHECKOUT)): path for path in pages(CHECKOUT)}
LANGUAGES = {"bash", "python", "yaml", "toml", "json", "output", "text"}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        patch.delattr(os, "sync", raising=False)
        yield World(tmp_path_factory.mktemp("world"))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder to run a page in, and this process as it was afterwards."""
    threads = torch.get_num_threads()
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    torch.set_num_threads(threads)


def smaller(page: str, block: Block) -> tuple[str, bool]:
    text = block.text
    for said, done in SMALLER.get(page, ()):
        text = text.replace(said, done)
    return text, text != block.text


def arguments(command: Command) -> list[str] | None:
    """What msdm-kit is called with; under torchrun too, of whose processes one is run here."""
    if command.words[0] == "msdm-kit":
        return list(command.words[1:])
    if command.words[0] == "torchrun" and "msdm_kit" in command.words:
        return list(command.words[command.words.index("msdm_kit") + 1 :])
    return None


def run_bash(text: str, where: str) -> bool:
    """Run the commands of a block; whether any of them was made smaller."""
    changed = False
    for command in commands(text):
        line = shlex.join(command.words)
        if line in SET_UP:
            continue
        words = arguments(command)
        assert words is not None, f"{where}: {line}"
        for name, others, added in ADDED:
            if words[: len(name.split())] == name.split() and set(others) <= set(words):
                words += added
                changed = True
                break
        with (
            open(command.into, "w") if command.into else nullcontext(sys.stdout) as out,
            redirect_stdout(out),
        ):
            assert run(words) == 0, f"{where}: {line}"
    return changed


def run_yaml(text: str, folder: Path, where: str) -> None:
    """Check a recipe, a plan or a list of mask operations; a first line with a name says what file it is."""
    content = yaml.safe_load(text)
    name = re.match(r"# (\S+\.yaml)$", text, re.MULTILINE)
    path = folder / (name[1] if name else "block.yaml")
    path.write_text(text, encoding="utf-8")
    if "generators" in content:
        load_plan(path)
    elif set(content) == {"mask_operations"}:
        load_operations([str(path)])
    elif "crowding" in content.get("conditioners", {}):  # the condition that plugins.md writes
        with pytest.raises(MsdmError, match="no conditioner 'crowding'"):
            check_plugins(load_recipe(path))
    else:
        check_plugins(load_recipe(path))


def shows(printed: str, shown: str, *, digits: bool) -> None:
    """The lines that a page shows were printed, in their order; numbers aside where less was run."""

    def plain(line: str) -> str:
        return " ".join((line if digits else re.sub(r"[\d.]+", "#", line)).split())

    lines = iter(map(plain, printed.splitlines()))
    for line in map(plain, shown.splitlines()):
        assert line in lines, f"{line!r} is not in {printed}"


@pytest.mark.parametrize("page", PAGES)
def test_a_page_does_what_it_says(page, world, folder, capfd):
    for path, thing in GIVEN.get(page, {}).items():
        world.put(thing, folder / path)
    printed, exact = "", True
    names = {"__name__": "__main__"}
    for block in read_blocks(PAGES[page].read_text(encoding="utf-8")):
        if block.mark:
            continue
        where = f"{page}:{block.line}"
        text, changed = smaller(page, block)
        if block.language == "output":
            shows(printed, block.text, digits=exact)
            continue
        capfd.readouterr()
        if block.language == "bash":
            changed |= run_bash(text, where)
        elif block.language == "python":
            exec(compile(text, where, "exec"), names)
        elif block.language == "yaml":
            run_yaml(text, folder, where)
        else:
            continue
        printed, exact = capfd.readouterr().out, exact and not changed


def test_what_is_read_of_a_page():
    text = "```bash\nfirst \\\n  --x 'a > b' # why\n\nsecond > file && third\n```\n\n"
    text += "<!-- not run: needs it -->\n```yaml\n```\n"
    first, second = read_blocks(text)
    assert (first.language, first.line, first.mark) == ("bash", 1, None)
    assert (second.language, second.line, second.mark) == ("yaml", 9, ("not run", "needs it"))
    assert list(commands(first.text)) == [
        Command(("first", "--x", "a > b")),
        Command(("second",), "file"),
        Command(("third",)),
    ]
    with pytest.raises(ValueError, match="more of bash"):
        list(commands("first | second"))


def test_what_is_not_printed_is_found():
    printed = "note: a\n3 of 5 fields,  mean 0.25\nend\n"
    shows(printed, "3 of 5 fields, mean 0.25\nend\n", digits=True)
    shows(printed, "30 of 63 fields, mean 0.9\n", digits=False)
    for shown, digits in (("end\nnote: a", True), ("3 of 6 fields, mean 0.25", True), ("3 of 5", False)):
        with pytest.raises(AssertionError):
            shows(printed, shown, digits=digits)


def all_blocks():
    return [
        (page, block)
        for page, path in PAGES.items()
        for block in read_blocks(path.read_text(encoding="utf-8"))
    ]


def test_every_block_says_what_it_is():
    for page, block in all_blocks():
        assert block.language in LANGUAGES, f"{page}:{block.line}: a block of {block.language or 'nothing'}"
        if block.language in ("toml", "json"):
            {"toml": tomllib.loads, "json": json.loads}[block.language](block.text)
        if block.language == "python":
            ast.parse(block.text)


def test_few_blocks_are_not_run_and_each_says_why():
    marked = [(page, block) for page, block in all_blocks() if block.mark]
    assert Counter(page for page, block in marked if block.mark[0] == "not run") == NOT_RUN
    for page, block in marked:
        how, why = block.mark
        assert how == "not run" or (CHECKOUT / why).is_file(), f"{page}:{block.line}"


def test_the_tables_hold_nothing_that_no_page_says():
    assert set(GIVEN) | set(SMALLER) <= set(PAGES)
    for page, changes in SMALLER.items():
        text = PAGES[page].read_text(encoding="utf-8")
        for said, _ in changes:
            assert said in text, f"{page}: {said}"
    for page, things in GIVEN.items():
        text = PAGES[page].read_text(encoding="utf-8")
        for path in things:
            changes = SMALLER.get(page, ())
            assert path in text or any(path in done for _, done in changes), f"{page}: {path}"


def command_of(words):
    """The command that words name, its words, and what is left."""
    command, named, rest = get_command(app), [], list(words)
    while rest and rest[0] in getattr(command, "commands", {}):
        named.append(rest.pop(0))
        command = command.commands[named[-1]]
    return command, named, rest


def assert_legal(line, where):
    """The command is there, and so are its options; without variables of a shell, its arguments as well."""
    command, named, rest = command_of(shlex.split(line)[1:])
    options = {name for p in command.params for name in (*p.opts, *p.secondary_opts)} | {"--help"}
    assert named or rest[:1] in ([], ["--version"], ["--help"], ["--no-plugin"]), f"{where}: {line}"
    for word in rest:
        assert not word.startswith("--") or word.partition("=")[0] in options, f"{where}: {line}"
    return command, named, rest


def test_what_is_not_run_is_legal():
    """Every option is there and every argument given, in blocks that the page's test leaves out."""
    for page, block in all_blocks():
        if block.mark and block.language == "bash":
            text = re.sub(r"-m msdm_kit\b", "\nmsdm-kit", block.text.replace("\\\n", " "))
            for line in re.findall(r"^msdm-kit .*", text, re.M):
                command, named, rest = assert_legal(line, f"{page}:{block.line}")
                if "$" not in line:
                    command.make_context(" ".join(named), rest)


def test_commands_in_sentences_are_legal():
    """A command that is named in a line of text is there, and so are its options."""
    for page, path in PAGES.items():
        for line in spoken_commands(path.read_text(encoding="utf-8")):
            assert_legal(line, page)
