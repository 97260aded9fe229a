"""The commands and their help: complete, fast, and changed only on purpose."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import msdm_kit

SURFACE = {
    "": ["--help", "--no-plugin", "--version"],
    "train": ["--data", "--device", "--dry-run", "--help", "--out", "--profile", "--resume", "--set",
        "--threads",
    ],
    "sample": [
        "--appearance-from", "--batch", "--colour", "--data", "--device", "--donors", "--eta", "--guidance",
        "--help", "--keep", "--keep-margin", "--mask-op", "--max-colour-error", "--memory",
        "--metadata-from", "--min-adherence",
        "--min-agreement", "--n", "--out", "--overlap", "--precision", "--recombine", "--seed",
        "--segmenter", "--select",
        "--separate-donors", "--set-metadata", "--solver", "--solver-sweep", "--spacing", "--split",
        "--start", "--steps", "--strength", "--threads", "--tries", "--versions", "--window",
    ],
    "paint-field": [
        "--also", "--batch", "--colour", "--data", "--device", "--guidance", "--help", "--kind", "--look",
        "--memory", "--overlap", "--pixel-size", "--precision", "--seed", "--set-metadata", "--size",
        "--solver", "--steps", "--threads", "--window",
    ],
    "experiment": ["--devices", "--dry-run", "--help", "--jobs", "--out", "--set", "--threads"],
    "recipes": ["--diff", "--help"],
    "plugins": ["--help"],
    "plugins show": ["--help"],
    "plugins new": ["--help", "--out"],
    "convert": ["--help"],
    "convert sdm": [
        "--conditioner", "--drop", "--edges", "--head-channels", "--help", "--image-size", "--masks",
        "--no-edges", "--schedule", "--timesteps",
    ],
    "convert weights": ["--help"],
    "data": ["--help"],
    "data select": ["--help", "--limit", "--list", "--out", "--sort", "--split", "--where", "--workers"],
    "data check": ["--fix", "--help", "--json", "--speck", "--workers"],
    "data stats": ["--group", "--help", "--html", "--workers"],
    "data derive-cells": ["--distance", "--help", "--workers"],
    "data import": [
        "--allow-pickle", "--column", "--format", "--help", "--images", "--kind", "--metadata", "--split",
        "--workers",
    ],
    "data synthesise": [
        "--density", "--eccentricity", "--help", "--n", "--seed", "--select", "--size", "--split",
        "--workers",
    ],
    "data export": ["--format", "--help", "--mask-kind", "--select", "--split", "--workers"],
    "segment": ["--help"],
    "segment train": [
        "--device", "--help", "--kind", "--seed", "--segmenter", "--split", "--threads",
        "--validation", "--with",
    ],
    "segment predict": ["--also", "--device", "--help", "--kind", "--split", "--threads"],
    "evaluate": ["--help"],
    "evaluate fidelity": [
        "--allow-random", "--batch", "--device", "--distance", "--embedder", "--group", "--help",
        "--no-cache", "--out", "--permutations", "--projection", "--reference", "--repeats", "--seed",
        "--split", "--threads", "--workers",
    ],
    "evaluate segmentation": [
        "--distance", "--group", "--help", "--metric", "--out", "--pixel-size", "--region",
        "--split", "--workers",
    ],
}  # fmt: skip
COMMANDS = [
    "train",
    "sample",
    "paint-field",
    "experiment",
    "recipes",
    "plugins",
    "convert",
    "data",
    "segment",
    "evaluate",
]
ARGUMENTS = {
    "train": ["RECIPE"], "sample": ["RUN"], "paint-field": ["RUN", "MASKS", "OUT"],
    "experiment": ["PLAN"], "recipes": ["NAME"],
    "convert sdm": ["FILE", "OUT"], "convert weights": ["FILE", "OUT"],
    "plugins new": ["NAME"], "plugins show": ["NAME"],
    "data import": ["SRC", "OUT"],
    "data check": ["DIR"], "data stats": ["DIR"], "data derive-cells": ["DIR", "OUT"],
    "data select": ["DIR"],
    "evaluate fidelity": ["REAL", "SYNTH"],
    "evaluate segmentation": ["PRED", "TRUTH"],
    "data export": ["DIR", "OUT"], "data synthesise": ["DIR", "OUT"],
}  # fmt: skip
CHECKOUT = Path(os.environ.get("MSDM_KIT_CHECKOUT", Path(__file__).resolve().parents[2]))
DOCS = CHECKOUT / "docs" / "cli.md"
HEAVY = ("torch", "transformers", "timm", "skimage", "scipy", "numpy", "pandas", "matplotlib", "cellpose")


def options(text: str) -> list[str]:
    """The long options that a help page explains."""
    body = text.partition("Options:")[2].partition("Example")[0]
    heads = [line for line in body.splitlines() if re.match(r"  (-h, )?--", line)]
    return sorted({name for head in heads for name in re.findall(r"--[a-z-]+", head.split("   ")[0])})


@pytest.mark.parametrize("command", SURFACE)
def test_options_are_these(msdm, command):
    outcome = msdm(*command.split(), "--help")
    assert outcome.code == 0
    assert options(outcome.out) == SURFACE[command]
    assert outcome.err == ""


def test_commands_are_these(msdm):
    text = msdm("--help").out.partition("Commands:")[2].partition("Example")[0]
    assert re.findall(r"^  ([a-z-]+) ", text, re.M) == COMMANDS


def test_names_of_commands_are_taken_for_plugins():
    from msdm_kit.plugins.host import Host

    assert Host().names("command") == sorted(COMMANDS)


@pytest.mark.parametrize(
    "command",
    [
        "",
        "train",
        "sample",
        "paint-field",
        "experiment",
        "recipes",
        "plugins",
        "plugins show",
        "plugins new",
        "convert sdm",
        "convert weights",
        "data import",
        "data select",
        "data export",
        "data check",
        "data stats",
        "data derive-cells",
        "data synthesise",
        "segment train",
        "segment predict",
        "evaluate segmentation",
        "evaluate fidelity",
    ],
)
def test_help_ends_with_an_example_and_explains_all(msdm, command):
    text = msdm(*command.split(), "--help").out
    assert f"msdm-kit {command}".rstrip() in text.partition("Example:")[2]
    body = text.partition("Options:")[2].partition("Commands:")[0].partition("Example:")[0]
    for entry in re.split(r"\n(?=  -)", body.strip("\n")):
        words = re.sub(r"--?[\w-]+|\b[A-Z0-9|=,]+\b", "", entry).split()
        assert len(words) >= 2, entry
    for argument in ARGUMENTS.get(command, ()):
        assert re.search(rf"^  {argument}.*  \w+", text, re.M)


def test_every_option_and_command_is_documented():
    text = DOCS.read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## `msdm-kit ?([a-z -]*)`\n(.*?)(?=^## |\Z)", text, re.M | re.S))
    for command, names in SURFACE.items():
        if command in ("", "convert", "data", "evaluate", "segment"):
            continue
        for name in set(names) - {"--help"}:
            assert f"`{name}" in sections[command] or f"/{name}`" in sections[command], (command, name)
        for name in ARGUMENTS.get(command, ()):
            assert f"`{name}`" in sections[command]
        assert "```" in sections[command]
    assert "`--version`" in text
    assert "`--no-plugin NAME`" in text


def test_help_imports_nothing_heavy():
    pages = [command.split() for command in SURFACE]
    code = (
        "import sys\n"
        "from msdm_kit.cli.main import run\n"
        f"codes = [run([*page, '--help']) for page in {pages!r}] + [run(['--version'])]\n"
        f"heavy = [m for m in {HEAVY!r} if m in sys.modules]\n"
        "sys.exit(f'{heavy} {codes}' if heavy or any(codes) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_version(msdm):
    assert msdm("--version").out == f"msdm-kit {msdm_kit.__version__}\n"


def test_no_command_prints_the_help(msdm):
    assert msdm().out == msdm("--help").out


@pytest.mark.parametrize("force", ["FORCE_COLOR", "GITHUB_ACTIONS"])
def test_no_colours_off_a_terminal(msdm, monkeypatch, force):
    monkeypatch.setenv(force, "1")
    for words in (["plugins"], ["recipes"], ["train", "--help"]):
        assert "\x1b" not in msdm(*words).out


def test_recipes_are_listed_printed_and_compared(msdm):
    listed = msdm("recipes").out
    assert all(name in listed for name in ("quickstart", "sdm-hv", "arXiv 2510.09121"))
    assert "template: '{assay} {indication}'" in msdm("recipes", "msdm").out
    assert (
        "injectors.0.from: ['morphology'] -> ['morphology', 'colour']"
        in msdm("recipes", "--diff", "sdm-hv", "msdm").out.splitlines()
    )
    assert msdm("recipes", "--diff", "sdm", "sdm").out == "no differences\n"


def test_plugins_are_listed_with_their_problems(msdm, monkeypatch):
    from msdm_kit.plugins import host

    monkeypatch.setenv(host.BLOCK_VARIABLE, "spade")
    monkeypatch.setattr(host, "get_host", host.Host)
    lines = msdm("plugins").out.splitlines()
    assert any(
        line.split()[:2] == ["injector", "spade"] and line.endswith("blocked")
        for line in map(str.rstrip, lines)
    )
    assert sum(line.split()[-1] == "ok" for line in lines) > 10
