"""The conformance kit: what a plugin promises, as test classes that its package inherits.

A test file of three lines, found and run by pytest::

    from msdm_kit.plugins.testing import ConditionerConformance

    class TestStain(ConditionerConformance):
        plugin = "stain"

The plugin is taken from the installed package by its name, as a recipe takes it; `settings` are what it
cannot do without, and what makes it small. The classes need no pytest to be imported.
"""

from collections.abc import Mapping
from typing import Any

from .autoencoder import AutoencoderConformance
from .backbone import BackboneConformance
from .case import Conformance
from .conditioner import ConditionerConformance
from .embedder import EmbedderConformance
from .exchange import ExporterConformance, ImporterConformance
from .fields import toy_folder, toy_sample
from .files import DatasetConformance, PlanConformance, RecipeConformance
from .injector import InjectorConformance
from .mask_operation import MaskOperationConformance
from .metric import MetricConformance
from .output import CommandConformance, LoggerConformance
from .segmenter import SegmenterConformance
from .solver import SolverConformance

CONFORMANCE: Mapping[str, type[Conformance]] = {
    cls.kind: cls
    for cls in (
        AutoencoderConformance,
        BackboneConformance,
        CommandConformance,
        ConditionerConformance,
        DatasetConformance,
        EmbedderConformance,
        ExporterConformance,
        ImporterConformance,
        InjectorConformance,
        LoggerConformance,
        MaskOperationConformance,
        MetricConformance,
        PlanConformance,
        RecipeConformance,
        SegmenterConformance,
        SolverConformance,
    )
}
"""The checks of each kind of plugin."""


def matrix(names: Mapping[str, list[str]], settings: Mapping[str, Mapping[str, Any]]) -> dict[str, type]:
    """A test class for each of several plugins, to be put into a test module with ``globals().update``.

    Parameters
    ----------
    names : mapping kind -> list of str
    settings : mapping name -> mapping
        What a plugin cannot do without.

    Returns
    -------
    dict of str -> type
        Named ``Test`` and the kind and the name.
    """
    found = {}
    for kind, plugins in names.items():
        for name in plugins:
            title = "Test" + "".join(w.title() for w in f"{kind}_{name}".replace("-", "_").split("_"))
            body = {"plugin": name, "settings": settings.get(name, {})}
            found[title] = type(title, (CONFORMANCE[kind],), body)
    return found


__all__ = [
    "CONFORMANCE",
    "AutoencoderConformance",
    "BackboneConformance",
    "CommandConformance",
    "ConditionerConformance",
    "Conformance",
    "DatasetConformance",
    "EmbedderConformance",
    "ExporterConformance",
    "ImporterConformance",
    "InjectorConformance",
    "LoggerConformance",
    "MaskOperationConformance",
    "MetricConformance",
    "PlanConformance",
    "RecipeConformance",
    "SegmenterConformance",
    "SolverConformance",
    "matrix",
    "toy_folder",
    "toy_sample",
]
