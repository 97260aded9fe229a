"""A run folder from a released SDM checkpoint: the recipe that it needs, and its weights under our names."""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..core.checkpoint import save_tensors
from ..core.conditioning import Conditioner
from ..core.errors import MsdmError
from ..core.recipe import Recipe
from .build import build_conditioners, build_denoiser
from .check import check_plugins
from .convert_sdm import HEAD_CHANNELS, SdmShape, convert, describe
from .convert_weights import read_tensors
from .host import get_host
from .new_folder import check_new
from .recipe_files import load_recipe
from .recipe_schema import one_line
from .run import Run, run_facts

TRAINING = "sdm"
"""The recipe whose training settings a converted run gets; they were not stored."""
_MOST_KINDS = 64


def convert_run(
    file: str | Path,
    out: str | Path,
    *,
    conditioners: Mapping[str, str] | None = None,
    masks: Sequence[str] = ("cell", "nucleus"),
    edges: bool = True,
    image_size: int = 256,
    head_channels: int = HEAD_CHANNELS,
    schedule: str = "linear",
    timesteps: int = 1000,
    drop: float | None = None,
) -> Run:
    """Make a run folder of a checkpoint of SDM.

    Parameters
    ----------
    file : str or Path
        ``.pt`` or ``.safetensors``.
    out : str or Path
        A folder that does not exist yet, or is empty.
    conditioners : mapping name -> type, or None
        What the checkpoint's map is made of, in the order of its channels; None is a label map.
    masks : sequence of str
        Mask kinds, in the order of their channels.
    edges : bool
        Whether a label map has the channel of instance edges.
    image_size : int
        Side in pixels that it was trained at.
    head_channels : int
        Width of an attention head; it leaves no trace in a checkpoint.
    schedule : {'linear', 'cosine'}
    timesteps : int
    drop : float or None
        Probability with which training dropped the map, 0 where it never did: guidance needs it. None is 0.2,
        SDM's, for a label map, whose absent condition is SDM's; for other maps, 0.

    Returns
    -------
    Run

    Raises
    ------
    MsdmError
        The file is no checkpoint of SDM, the conditions are not as wide as its map, a setting is illegal, or
        the folder is not empty; nothing is written then.
    """
    run = Run(Path(out))
    check_new(run.folder)
    state = read_tensors(file)
    shape = describe(state)
    made_of = dict(conditioners or {"morphology": "label_map"})
    if drop is None:
        drop = 0.2 if set(made_of.values()) == {"label_map"} else 0.0
    recipe = converted_recipe(
        shape,
        name=Path(file).stem,
        conditioners=made_of,
        masks=masks,
        edges=edges,
        image_size=image_size,
        head_channels=head_channels,
        schedule=schedule,
        timesteps=timesteps,
        drop=drop,
    )
    check_plugins(recipe)
    # a map of masks learns nothing of a training set
    built = build_conditioners(recipe, facts={name: {} for name in recipe.conditioners})
    _check_width(shape, built)
    denoiser = build_denoiser(recipe, built)
    try:
        denoiser.load_state_dict(convert(state))
    except RuntimeError as error:
        first = (str(error).splitlines()[1:2] or [str(error)])[0].strip()
        raise MsdmError(f"{file} does not fit the recipe that its shapes give: {first}") from None
    save_tensors(run.weights, denoiser.state_dict(), run_facts(recipe, denoiser, 0))
    run.start(recipe)
    return run


def converted_recipe(
    shape: SdmShape,
    *,
    name: str,
    conditioners: Mapping[str, str],
    masks: Sequence[str],
    edges: bool,
    image_size: int,
    head_channels: int,
    schedule: str,
    timesteps: int,
    drop: float,
) -> Recipe:
    """The recipe of a checkpoint; parameters as `convert_run`.

    Raises
    ------
    MsdmError
        A setting is illegal.
    """
    entries = {k: _entry(kind, masks, edges) | {"drop": drop} for k, kind in conditioners.items()}
    data: dict[str, Any] = {
        "name": re.sub(r"[^A-Za-z0-9._-]", "-", name).lstrip("._-") or "sdm",
        "summary": "Converted from a checkpoint of SDM; its training settings are not its own.",
        "reference": "Wang et al. 2022, arXiv 2207.00050",
        "data": {"masks": list(masks), "crop": image_size},
        "conditioners": entries,
        "injectors": [
            {"type": "spade", "from": list(entries), "at": ["middle", "decoder"], "hidden": shape.hidden}
        ],
        "backbone": shape.backbone(head_channels),
        "diffusion": {
            "schedule": schedule,
            "timesteps": timesteps,
            "prediction": "eps",
            "variance": "learned_range" if shape.learned_variance else "fixed_small",
        },
        "train": load_recipe(TRAINING).train.model_dump(),
    }
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        raise MsdmError(f"converted recipe: {one_line(error, Recipe)}") from None


def _entry(kind: str, masks: Sequence[str], edges: bool) -> dict[str, Any]:
    return {"type": kind, "masks": list(masks)} | ({"edges": edges} if kind == "label_map" else {})


def _check_width(shape: SdmShape, conditioners: Mapping[str, Conditioner]) -> None:
    each = [f"{name} is a {c.spec.kind} of {c.spec.width}" for name, c in conditioners.items()]
    maps = all(c.spec.kind == "map" for c in conditioners.values())
    width = sum(c.spec.width for c in conditioners.values())
    if maps and width == shape.map_channels:
        return
    fitting = list(_fitting(shape.map_channels))
    advice = "; or ".join(fitting) if fitting else "none of the built-in maps gives that width"
    raise MsdmError(
        f"the checkpoint takes a map of {shape.map_channels} channels, and {', '.join(each)}; what fits: "
        f"{advice}"
    )


def _fitting(width: int) -> Iterator[str]:
    """The options that give a map of `width` channels."""
    options = {
        "label_map with edges": ("label_map", True),
        "label_map without edges": ("label_map", False),
        "hv_maps": ("hv_maps", False),
        "rgb_statistics": ("rgb_statistics", False),
    }
    # label_map in a map of colours and HV maps is no system that there is
    choices = [(name,) for name in options] + [
        tuple(c) for c in combinations(options, 2) if "edges" not in c[0]
    ]
    for choice in choices:
        for kinds in range(1, _MOST_KINDS + 1):
            masks = [f"kind{i}" for i in range(kinds)]
            if sum(_width(*options[name], masks) for name in choice) == width:
                yield f"{' + '.join(choice)} of {kinds} mask kind{'s' if kinds > 1 else ''}"


def _width(kind: str, edges: bool, masks: Sequence[str]) -> int:
    cls = get_host().load("conditioner", kind)
    entry = _entry(kind, masks, edges)
    del entry["type"]
    conditioner: Conditioner = cls(cls.Config.model_validate(entry), {})
    return conditioner.spec.width
