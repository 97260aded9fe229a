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
            "reference",
            "Tokens of a reference image from any network of timm, as a condition.",
            lazy("msdm_kit_reference.conditioner:Reference"),
        )
    ]


@hookimpl
def msdm_kit_recipes() -> list[Plugin]:
    path = Path(__file__).with_name("reference.yaml")
    return [Plugin("reference", "The quickstart's model with the condition reference.", partial(Path, path))]
