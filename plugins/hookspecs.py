"""The hooks that a plugin package may implement.

A package names a module in its entry points, group ``msdm_kit``, and marks functions of that module:

    from msdm_kit.plugins.descriptor import Plugin, lazy
    from msdm_kit.plugins.hookspecs import hookimpl

    MSDM_KIT_API = 1

    @hookimpl
    def msdm_kit_conditioners():
        return [Plugin("stain", "Stain vectors.", lazy("my_package.stain:StainVectors"))]

Every hook returns a list of `Plugin`. Listing must import nothing heavy: that is what `lazy` is for.
``MSDM_KIT_API`` is the `API_LEVEL` that the package was written for.
"""

import pluggy

from .descriptor import Plugin

PROJECT = "msdm_kit"
KINDS = (
    "conditioner",
    "injector",
    "autoencoder",
    "backbone",
    "solver",
    "recipe",
    "dataset",
    "importer",
    "exporter",
    "mask_operation",
    "embedder",
    "segmenter",
    "metric",
    "plan",
    "logger",
    "command",
)

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


def hook_name(kind: str) -> str:
    """The hook of a kind, such as ``msdm_kit_conditioners``."""
    return f"{PROJECT}_{kind}s"


@hookspec
def msdm_kit_conditioners() -> list[Plugin]:  # type: ignore[empty-body]
    """Conditions; each loads a subclass of `msdm_kit.Conditioner`."""


@hookspec
def msdm_kit_injectors() -> list[Plugin]:  # type: ignore[empty-body]
    """Ways into the network; each loads a subclass of `msdm_kit.Injector`."""


@hookspec
def msdm_kit_autoencoders() -> list[Plugin]:  # type: ignore[empty-body]
    """Images to latents and back; each loads a subclass of `msdm_kit.core.autoencoder.Autoencoder`."""


@hookspec
def msdm_kit_backbones() -> list[Plugin]:  # type: ignore[empty-body]
    """Networks; each loads a backbone class."""


@hookspec
def msdm_kit_solvers() -> list[Plugin]:  # type: ignore[empty-body]
    """Samplers; each loads a solver function."""


@hookspec
def msdm_kit_recipes() -> list[Plugin]:  # type: ignore[empty-body]
    """Presets; each loads the `pathlib.Path` of a YAML file."""


@hookspec
def msdm_kit_datasets() -> list[Plugin]:  # type: ignore[empty-body]
    """Data sets that come with a package; each loads the `pathlib.Path` of a folder with a manifest."""


@hookspec
def msdm_kit_importers() -> list[Plugin]:  # type: ignore[empty-body]
    """Formats of data sets; each loads a subclass of `msdm_kit.plugins.importers.base.Importer`."""


@hookspec
def msdm_kit_exporters() -> list[Plugin]:  # type: ignore[empty-body]
    """Formats to export to; each loads a subclass of `msdm_kit.plugins.exporters.base.Exporter`."""


@hookspec
def msdm_kit_mask_operations() -> list[Plugin]:  # type: ignore[empty-body]
    """Operations on masks; each loads a subclass of `msdm_kit.plugins.mask_operations.base.MaskOperation`."""


@hookspec
def msdm_kit_embedders() -> list[Plugin]:  # type: ignore[empty-body]
    """Features of images; each loads a subclass of `msdm_kit.plugins.embedders.base.Embedder`."""


@hookspec
def msdm_kit_segmenters() -> list[Plugin]:  # type: ignore[empty-body]
    """What finds instances; each loads a subclass of `msdm_kit.plugins.segmenters.base.Segmenter`."""


@hookspec
def msdm_kit_metrics() -> list[Plugin]:  # type: ignore[empty-body]
    """Figures of merit; each loads a `MaskMetric` or `FeatureMetric` of `msdm_kit.plugins.metrics.base`."""


@hookspec
def msdm_kit_plans() -> list[Plugin]:  # type: ignore[empty-body]
    """Experiments; each loads the `pathlib.Path` of a YAML file."""


@hookspec
def msdm_kit_loggers() -> list[Plugin]:  # type: ignore[empty-body]
    """Where figures of a training go; each loads a subclass of `msdm_kit.plugins.loggers.base.Logger`."""


@hookspec
def msdm_kit_commands() -> list[Plugin]:  # type: ignore[empty-body]
    """Commands under ``msdm-kit``; each loads a `typer.Typer` or a function with typer's annotations."""
