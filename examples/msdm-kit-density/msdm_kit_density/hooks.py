"""What the package brings; listing plugins imports this file alone."""

from functools import partial
from pathlib import Path

from msdm_kit.plugins.descriptor import Plugin, lazy
from msdm_kit.plugins.hookspecs import hookimpl

MSDM_KIT_API = 1


@hookimpl
def msdm_kit_conditioners() -> list[Plugin]:
    return [
        Plugin(
            "density",
            "Per-pixel density of instance centres, as a map condition.",
            lazy("msdm_kit_density.conditioner:Density"),
        )
    ]


@hookimpl
def msdm_kit_recipes() -> list[Plugin]:
    path = Path(__file__).with_name("density.yaml")
    return [Plugin("density", "The quickstart's model with the condition density.", partial(Path, path))]
