"""msdm-kit: conditional diffusion for pathology.

Nothing is imported until it is asked for (PEP 562), so that the command line starts fast and so that a test
runner that finds this folder under another name does not import every class twice.

Examples
--------
>>> import msdm_kit
>>> msdm_kit.Sample.__name__
'Sample'
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "Conditioner": "msdm_kit.core.conditioning",
    "Denoiser": "msdm_kit.core.denoiser",
    "FieldDataset": "msdm_kit.core.dataset",
    "Injector": "msdm_kit.core.injection",
    "MsdmError": "msdm_kit.core.errors",
    "data_folder": "msdm_kit.plugins.data",
    "paint": "msdm_kit.plugins.painting",
    "recombine": "msdm_kit.core.sample",
    "save_image": "msdm_kit.core.images",
    "NoiseSchedule": "msdm_kit.core.schedule",
    "Pipeline": "msdm_kit.plugins.pipeline",
    "Recipe": "msdm_kit.core.recipe",
    "Sample": "msdm_kit.core.sample",
    "Signal": "msdm_kit.core.conditioning",
    "Site": "msdm_kit.core.injection",
    "Spec": "msdm_kit.core.conditioning",
    "load_recipe": "msdm_kit.plugins.recipe_files",
    "train": "msdm_kit.plugins.training",
}

__all__ = ["__version__", *sorted(_PUBLIC)]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'msdm_kit' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return __all__
