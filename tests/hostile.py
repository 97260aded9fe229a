"""A package on disk whose plugins break every promise that they can, when told to."""

from pathlib import Path

HOOKS = '''\
"""Light hooks, as they should be."""

from msdm_kit.plugins.descriptor import Plugin, lazy
from msdm_kit.plugins.hookspecs import hookimpl

MSDM_KIT_API = 1


@hookimpl
def msdm_kit_conditioners():
    return [Plugin("hostile", "Breaks its promises.", lazy("hostile_parts:Hostile"))]


@hookimpl
def msdm_kit_injectors():
    return [Plugin("hostile_film", "Breaks its promises.", lazy("hostile_parts:HostileFilm"))]


@hookimpl
def msdm_kit_loggers():
    return [Plugin("hostile_log", "Breaks its promises.", lazy("hostile_parts:HostileLog"))]


@hookimpl
def msdm_kit_commands():
    return [
        Plugin("greet", "Say hello.", lazy("hostile_parts:greet")),
        Plugin("group", "Several commands.", lazy("hostile_parts:group")),
        Plugin("gone", "Does not load.", lazy("hostile_parts:gone")),
        Plugin("number", "Is none.", lambda: 3),
        Plugin("train", "Takes a name of ours.", lazy("hostile_parts:greet")),
    ]
'''

PARTS = '''\
import os
import time

import torch
import torch.utils.data
import typer
from torch import nn

from msdm_kit.core.conditioning import Conditioner, PluginConfig, Signal, Spec
from msdm_kit.core.injection import Injector
from msdm_kit.plugins.loggers.base import Logger


def told(what):
    return os.environ.get("HOSTILE") == what


class Hostile(Conditioner):
    reads = frozenset({"morphology"})

    def __init__(self, config, facts):
        super().__init__(config, facts)
        self.spec = Spec("vector", 4)
        self.linear = nn.Linear(1, 4)
        self.absent = nn.Parameter(torch.randn(4))

    def observe(self, sample):
        if told("observe raises"):
            raise KeyError("area")
        if told("observe gives nothing"):
            return None
        if told("observe gives numbers"):
            return {"area": 3.0}
        if told("observe on device"):
            return {"area": torch.ones(1, device="meta")}
        if told("observe hangs"):
            while True:
                try:
                    time.sleep(60)
                except Exception:
                    pass
        area = torch.tensor([float(any((m > 0).any() for m in sample.masks.values()))])
        in_worker = torch.utils.data.get_worker_info() is not None
        if told("observe nan") or (told("observe nan in a worker") and in_worker):
            area = area / 0
        return {"area": area}

    def collate(self, observations):
        if told("collate raises"):
            raise TypeError("no")
        return super().collate(observations)

    def encode(self, batch):
        if told("encode raises"):
            raise ZeroDivisionError("two\\nlines")
        if told("encode gives a tensor"):
            return self.linear(batch["area"])
        out = self.linear(batch["area"])
        if told("encode width"):
            out = out[:, :3]
        if told("encode map"):
            out = out[:, :, None, None]
        if told("encode rows"):
            out = torch.cat([out, out])
        if told("encode device"):
            out = out.to("meta")
        if told("encode integers"):
            out = out.long()
        if told("encode nan"):
            out = out / 0 * 0
        return Signal(out)

    def null(self, like):
        if told("null raises"):
            raise IndexError("null")
        rows = 1 + len(like.data) if told("null rows") else len(like.data)
        return Signal(self.absent.expand(rows, -1))


class HostileFilm(Injector):
    accepts = frozenset({"vector"})
    site_kinds = frozenset({"embedding"})

    def __init__(self, config, spec, site):
        super().__init__(config, spec, site)
        self.linear = nn.Linear(spec.width, site.channels)

    def prepare(self, signal):
        if told("prepare raises"):
            raise RuntimeError("prepare")
        state = self.linear(signal.data)
        return [state] if told("prepare gives a list") else {"added": state}

    def inject(self, h, state, scale=None, shift=None):
        if told("inject raises"):
            raise ValueError("inject")
        if told("inject shape"):
            return (h + state["added"])[:, :2]
        return h + state["added"]


class HostileLog(Logger):
    def start(self, folder, recipe, step):
        if told("start raises"):
            raise OSError("no server")
        folder.mkdir(parents=True, exist_ok=True)
        self.lines = (folder / "lines.txt").open("a")

    def scalars(self, step, values):
        if told("scalars raises") and step > 1:
            raise ConnectionError("server went away")
        self.lines.write(f"{step} {sorted(values)}\\n")

    def images(self, step, images):
        self.lines.write(f"{step} {[(k, v.ndim, str(v.dtype)) for k, v in images.items()]}\\n")

    def close(self):
        self.lines.close()
        if told("scalars raises"):
            raise ConnectionError("server went away again")


def greet(name: str, loud: bool = False):
    """Greet somebody by name."""
    if name == "nobody":
        raise LookupError("no such person")
    print(f"hello {name}" + "!" * loud)


group = typer.Typer(help="Several commands.")
group.command("one")(greet)
group.command("two")(greet)
'''


def hostile_package(folder: Path) -> Path:
    """An installed package `hostile` 2.3: a folder for sys.path."""
    info = folder / "hostile-2.3.dist-info"
    info.mkdir(parents=True)
    (folder / "hostile_hooks.py").write_text(HOOKS)
    (folder / "hostile_parts.py").write_text(PARTS)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: hostile\nVersion: 2.3\n")
    (info / "entry_points.txt").write_text("[msdm_kit]\nhostile = hostile_hooks\n")
    return folder
