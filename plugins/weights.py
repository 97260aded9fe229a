"""The network that a weights file describes: built only where the weights in the file fit it."""

from collections.abc import Mapping
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor

from ..core.checkpoint import cast, load_tensors
from ..core.denoiser import Denoiser
from ..core.errors import MsdmError, did_you_mean
from ..core.recipe import Recipe
from .build import build_conditioners, build_denoiser
from .meta_pass import meta_denoiser
from .needs import check_latents, check_needs
from .run import Run, saved_recipe

MODELS = Path(__file__).parent / "models"


def load_denoiser(path: Path) -> tuple[Recipe, Denoiser, int]:
    """The recipe, the network and the number of optimiser steps of a weights file.

    The recipe in it may ask for a network of any size: memory is taken only once the names and shapes of the
    file's weights are known to be the network's.

    Parameters
    ----------
    path : Path

    Returns
    -------
    Recipe, Denoiser, int
        The network is on the CPU, in fp32.

    Raises
    ------
    MsdmError
        The file is damaged, needs a plugin that is not there, or its weights do not fit its recipe.
    """
    tensors, facts = load_tensors(path)
    check_needs(facts, str(path))
    recipe = saved_recipe(facts, path)
    known, step = facts.get("conditioners"), facts.get("step")
    if not isinstance(known, dict) or type(step) is not int or step < 0:
        raise MsdmError(f"{path} does not say what its conditions learned, or its step; get the file anew")
    check_fit(recipe, known, tensors, path)
    denoiser = build_denoiser(recipe, build_conditioners(recipe, facts=known))
    check_latents(facts, denoiser, str(path))
    try:
        denoiser.load_state_dict(cast(tensors, torch.float32))
    except RuntimeError as error:
        raise _misfit(path, (str(error).splitlines()[1:2] or [str(error)])[0]) from None
    return recipe, denoiser, step


def check_fit(recipe: Recipe, known: Mapping[str, Any], tensors: Mapping[str, Tensor], path: Path) -> None:
    """Check that weights are those of a recipe's network, before memory is taken for it.

    Parameters
    ----------
    recipe : Recipe
    known : mapping
        What its conditions learned; not trusted.
    tensors : mapping name -> Tensor
    path : Path
        Of the file, for messages.

    Raises
    ------
    MsdmError
        A name or a shape is another.
    """
    try:
        wanted = {
            name: tensor.shape for name, tensor in meta_denoiser(recipe, facts=known).state_dict().items()
        }
    except MsdmError:
        raise
    except RuntimeError as error:  # a size that no tensor can have
        raise _misfit(path, str(error)) from None
    found = {name: tensor.shape for name, tensor in tensors.items()}
    if missing := sorted(wanted.keys() - found.keys()):
        raise _misfit(path, f"it lacks {missing[0]!r}")
    if other := sorted(found.keys() - wanted.keys()):
        raise _misfit(path, f"it has {other[0]!r}, which the recipe has no place for")
    for name, shape in wanted.items():
        if found[name] != shape:
            raise _misfit(
                path, f"{name} has shape {tuple(found[name])}, and the recipe asks for {tuple(shape)}"
            )


def _misfit(path: Path, what: str) -> MsdmError:
    first = shorten(what, 160, placeholder=" ...")
    return MsdmError(
        f"{path}: the weights do not fit their recipe: {first}; give the file of a run as it was saved"
    )


def find_weights(run: str | Path) -> Path:
    """The weights file of a run's folder, a file itself, or a model of the package.

    Raises
    ------
    MsdmError
        There is none.
    """
    path = Path(run)
    if path.is_file():
        return path
    weights = Run(path).weights
    if weights.exists():
        return weights
    models = {p.parent.name: p for p in MODELS.glob("*/weights.safetensors")}
    if str(run) in models:
        return models[str(run)]
    if path.is_dir():
        raise MsdmError(f"{path} holds no {weights.name}; give the folder of a run that has saved once")
    raise MsdmError(f"no run {str(run)!r}, and no model of that name: {did_you_mean(str(run), models)}")
