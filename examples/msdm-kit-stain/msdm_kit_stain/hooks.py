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
            "stain",
            "Stain vectors of a field after Macenko et al. 2009, as a vector condition.",
            lazy("msdm_kit_stain.conditioner:Stain"),
        )
    ]


@hookimpl
def msdm_kit_recipes() -> list[Plugin]:
    path = Path(__file__).with_name("stain.yaml")
    return [Plugin("stain", "The quickstart's model with the condition stain.", partial(Path, path))]
