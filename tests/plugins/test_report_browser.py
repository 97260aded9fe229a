"""Reports in a browser: shown, within a phone's width, without a word on the console and without a request.

Needs Chromium, as Debian packages it; skipped where there is none.
"""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from msdm_kit.plugins.report import figures
from msdm_kit.plugins.report.html import render
from msdm_kit.plugins.report.page import Figure, Report, Section, Table
from msdm_kit.plugins.report.pictures import png

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="there is no Chromium")

PHONE, DESK = 390, 1280
# In a frame, as a window is never as narrow as a phone. The frame tells what it measured.
PROBE = """<script>
addEventListener("load", () => setTimeout(() => {
  const root = document.documentElement, edge = root.clientWidth + 0.5;
  const scrolls = e => e.closest(".scroll, .drawing") !== null;
  const ink = e => e.getBoundingClientRect();
  const beyond = [...document.querySelectorAll("body *")].filter(e => !scrolls(e) && ink(e).right > edge);
  parent.postMessage({
    width: root.clientWidth, scroll: root.scrollWidth,
    beyond: beyond.map(e => e.tagName + " " + e.textContent.slice(0, 40)),
    drawings: [...document.querySelectorAll("svg, img")].map(e => [ink(e).width, ink(e).height]),
    paths: [...document.querySelectorAll("svg")].map(
      e => [...e.querySelectorAll("path")].filter(p => ink(p).width > 5).length),
    type: Math.min(...[...document.querySelectorAll("svg text")].map(e => ink(e).height).filter(h => h > 0)),
    resources: performance.getEntriesByType("resource").map(e => e.name).filter(n => !n.startsWith("data:")),
    ground: getComputedStyle(document.body).backgroundColor, ink: getComputedStyle(document.body).color,
    label: getComputedStyle(document.querySelector("svg text")).fill,
  }, "*");
}, 50));
</script>"""
FRAME = """<!doctype html>
<iframe src="{}" width="{}" height="900" style="border: 0"></iframe><pre id="found"></pre>
<script>
const found = document.getElementById("found");
addEventListener("message", e => found.textContent = JSON.stringify(e.data));
</script>
"""


@pytest.fixture(scope="module")
def page() -> str:
    """A page with everything that is wide: long words, long names, many columns, large pictures."""
    rng = np.random.default_rng(0)
    names = [f"assay {i}/indication {i}" for i in range(10)]
    values = {name: rng.normal(size=50) for name in names[:3]} | {"word" * 20: rng.normal(size=5)}
    contents = [
        figures.histograms(values, "pixels"),
        figures.distributions(values, "x"),
        figures.strips(values, "x"),
        figures.intervals({name: (1.0, 0.5, 2.0) for name in names}, "x"),
        figures.curves(
            {name: (range(50), rng.uniform(size=50)) for name in names[:2]}, "step", "loss", log=True
        ),
        figures.scatter(rng.normal(size=(90, 2)), names * 9, ["real", "synthetic"] * 45),
        figures.matrix(
            rng.uniform(size=(10, 10)), names, names, label="distance", axes=("real", "synthetic")
        ),
        png(rng.integers(0, 255, (300, 1500, 3), dtype=np.uint8)),
    ]
    shown = [Figure(f"Figure {i}", "A caption. " * 9, "alt", content) for i, content in enumerate(contents)]
    table = Table(
        "Fields", [f"column {i}" for i in range(20)], [["name" * 8, *rng.uniform(size=19)]] * 60, "Note."
    )
    long = "/a/very/long/path" * 12
    return render(
        Report(
            "A long title " + "w" * 90,
            ["A paragraph. " * 20, long],
            ["A warning. " * 20, long],
            [Section("Drawings", [long], shown), Section("x" * 60, tables=[table]), Section("Empty")],
            {"a.very.deeply.nested." * 6: long, "list": list(range(99))},
            {"weights_sha256": "ab" * 32, "command": long},
        )
    )


def browse(folder: Path, page: str, width: int, *options: str) -> tuple[dict, list[str]]:
    """What the probe measured, and what the console said, in a browser that reaches no network."""
    policy = "default-src 'none'; "
    assert policy in page
    # the page runs no scripts: the probe needs leave, and has to stand in its policy
    probed = page.replace(policy, policy + "script-src 'unsafe-inline'; ").replace(
        "</body>", f"{PROBE}</body>"
    )
    (folder / "page.html").write_text(probed, encoding="utf-8")
    (folder / "frame.html").write_text(FRAME.format("page.html", width), encoding="utf-8")
    done = run(folder, folder / "frame.html", "--virtual-time-budget=3000", "--dump-dom", *options)
    found = re.search(r'<pre id="found">(.+?)</pre>', done.stdout, flags=re.DOTALL)
    assert found, done.stderr[-2000:]
    return json.loads(html.unescape(found[1])), console(done.stderr)


def run(folder: Path, page: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [
            str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            "--hide-scrollbars", "--no-first-run", "--disable-background-networking", "--disable-sync",
            "--disable-component-update", f"--user-data-dir={folder / 'profile'}", "--enable-logging=stderr",
            "--host-resolver-rules=MAP * ~NOTFOUND", "--proxy-server=127.0.0.1:9",
            f"--window-size={DESK + 40},1000", *options, page.as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip


def console(log: str) -> list[str]:
    return [line for line in log.splitlines() if re.search(r":CONSOLE[:(]", line)]


@pytest.mark.parametrize(
    ("width", "options", "ground", "ink"),
    [
        (PHONE, (), "rgb(255, 255, 255)", "rgb(29, 29, 36)"),
        (DESK, ("--force-dark-mode",), "rgb(22, 22, 27)", "rgb(236, 236, 241)"),
    ],
    ids=["phone, light", "desk, dark"],
)
def test_nothing_sticks_out_and_all_is_drawn(page, tmp_path, width, options, ground, ink):
    found, said = browse(tmp_path, page, width, *options)
    assert said == []
    assert found["resources"] == []
    assert found["width"] == width
    assert found["scroll"] <= width
    assert found["beyond"] == []
    assert len(found["drawings"]) == 8
    assert min(min(size) for size in found["drawings"]) > 50
    assert min(found["paths"]) > 0, "of every drawing something is seen"
    assert found["type"] > 7.5, "pixels"
    assert (found["ground"], found["ink"], found["label"]) == (ground, ink, ink)


def test_the_console_is_heard_and_a_request_is_refused(page, tmp_path):
    leaking = page.replace("</body>", '<img src="https://example.org/x.png" alt="x"></body>')
    (tmp_path / "page.html").write_text(leaking, encoding="utf-8")
    done = run(tmp_path, tmp_path / "page.html", "--virtual-time-budget=1000", "--dump-dom")
    assert any("Content Security Policy" in line for line in console(done.stderr)), done.stderr[-2000:]


def test_it_prints(page, tmp_path):
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    done = run(tmp_path, tmp_path / "page.html", f"--print-to-pdf={tmp_path / 'page.pdf'}")
    assert console(done.stderr) == []
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
