"""Networks of timm, with weights that are on this machine."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from ...core.conditioning import PluginConfig
from ...core.errors import MsdmError, did_you_mean
from ...core.model_folder import conversion
from ...core.sample import Image
from .base import Embedder

WEIGHTS, CONFIG = "model.safetensors", "config.json"
PICKLED = "pytorch_model.bin"
LOCAL, HUB = "local-dir:", "hf-hub:"


@dataclass(frozen=True)
class _Located:
    """A model as `timm.create_model` takes it, and the file of its weights."""

    name: str
    weights: Path


class Timm(Embedder):
    """Pooled features of a network of timm. Nothing is downloaded: weights are those on this machine.

    `model` is a name of timm (``resnet18.a1_in1k``), ``local-dir:FOLDER`` with ``config.json`` and weights in
    safetensors, as timm saves them, or ``hf-hub:OWNER/NAME``, which is looked for in the local cache of
    huggingface_hub. Networks run in float32; tiles have the size and the normalisation of the weights, unless
    they are given.
    """

    class Config(PluginConfig):
        model: str = Field(min_length=1, description="A timm name, local-dir:FOLDER or hf-hub:OWNER/NAME.")
        tile: int | None = Field(default=None, ge=8, le=4096, description="Side of tiles in pixels.")
        pixel_size: float | None = Field(
            default=None,
            ge=0.01,
            le=100,
            description="Side of a pixel in micrometres that fields are brought to.",
        )
        mean: tuple[float, float, float] | None = Field(default=None, description="Of R, G, B in [0, 1].")
        std: tuple[float, float, float] | None = Field(default=None, description="Of R, G, B in [0, 1].")

    arguments: ClassVar[Mapping[str, Any]] = {}
    """Further arguments of the network."""

    def __init__(self, config: Any, device: torch.device) -> None:
        super().__init__(config, device)
        located = _locate(config.model)
        self._network = _create(located, config.model, dict(self.arguments)).to(device).eval()
        found = self._network.pretrained_cfg
        self._mean = torch.tensor(config.mean or found["mean"], device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(config.std or found["std"], device=device).view(1, 3, 1, 1)
        if not (self._std > 0).all():
            raise MsdmError(
                f"model {config.model!r}: std {config.std} is not positive; give three values above 0"
            )
        self.tile = int(config.tile or found["input_size"][-1])
        self.pixel_size = config.pixel_size
        self._weights_sha256 = _sha256(located.weights)

    @classmethod
    def check(cls, config: Any) -> None:
        _locate(config.model)

    @property
    def fingerprint(self) -> str:
        import timm

        settings = self.config.model_dump(mode="json", exclude={"model"})
        architecture = [self._network.pretrained_cfg.get("architecture"), self.arguments, timm.__version__]
        normalised = [self._mean.flatten().tolist(), self._std.flatten().tolist(), self.tile]
        # not the name: the same weights in another folder give the same features
        text = json.dumps(["timm", architecture, normalised, settings, self._weights_sha256], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @torch.inference_mode()
    def embed(self, tiles: Sequence[Image]) -> NDArray[np.float32]:
        batch = torch.from_numpy(np.stack(tiles)).to(self.device)
        features = self._network((batch.clamp(-1, 1) * 0.5 + 0.5 - self._mean) / self._std)
        return np.asarray(features.float().cpu().numpy(), np.float32)


class HOptimus0(Timm):
    """H-optimus-0 (Saillard et al., 2024), the embedder of the MSDM paper: ViT-g/14, 1,536 features.

    Tiles of 224 pixels at 0.5 micrometres, with the normalisation of its model card. Fields whose pixel size
    is not known are taken to have it.
    """

    class Config(Timm.Config):
        model: str = Field(
            default="hf-hub:bioptimus/H-optimus-0",
            min_length=1,
            description="The weights: hf-hub:bioptimus/H-optimus-0, or local-dir:FOLDER.",
        )
        tile: int | None = Field(default=224, ge=8, le=4096, description="Side of tiles in pixels.")
        pixel_size: float | None = Field(
            default=0.5,
            ge=0.01,
            le=100,
            description="Side of a pixel in micrometres that fields are brought to.",
        )
        mean: tuple[float, float, float] | None = Field(
            default=(0.707223, 0.578729, 0.703617), description="Of R, G, B in [0, 1]."
        )
        std: tuple[float, float, float] | None = Field(
            default=(0.211883, 0.230117, 0.177517), description="Of R, G, B in [0, 1]."
        )

    arguments: ClassVar[Mapping[str, Any]] = {"init_values": 1e-5, "dynamic_img_size": False}


def _locate(model: str) -> _Located:
    """Find a model's weights on this machine.

    Raises
    ------
    MsdmError
        They are not here, are no safetensors, or there is no such model.
    """
    if model.startswith(LOCAL):
        folder = Path(model.removeprefix(LOCAL)).expanduser()
        return _Located(f"{LOCAL}{folder}", _weights_of(folder))
    if model.startswith(HUB):
        repository, _, revision = model.removeprefix(HUB).partition("@")
        config = _cached(repository, CONFIG, revision)
        weights = _cached(repository, WEIGHTS, revision)
        if config is None or weights is None:
            raise _missing(model, repository, f"{CONFIG} {WEIGHTS}")
        return _Located(f"{LOCAL}{config.parent}", weights)
    import timm

    name = model.removeprefix("timm/")
    if not timm.is_model(name):
        raise MsdmError(
            f"timm {timm.__version__} has no model {model!r}; {_similar(name)}, or give {LOCAL}FOLDER or "
            f"{HUB}OWNER/NAME"
        )
    pretrained = timm.get_pretrained_cfg(name)
    if pretrained is None or not pretrained.hf_hub_id:
        raise MsdmError(f"timm has no published weights of {model!r}; give them as model={LOCAL}FOLDER")
    weights = _cached(pretrained.hf_hub_id, WEIGHTS, "")
    if weights is None:
        raise _missing(model, pretrained.hf_hub_id, WEIGHTS)
    return _Located(name, weights)


def _similar(name: str) -> str:
    import timm

    return did_you_mean(name, timm.list_models()).partition("legal:")[0].strip() or "see timm.list_models()"


def _weights_of(folder: Path) -> Path:
    safe, pickled = folder / WEIGHTS, folder / PICKLED
    files = f"a model's folder has {CONFIG} and {WEIGHTS}, as timm saves them"
    if not (folder / CONFIG).is_file():
        raise MsdmError(f"{folder} has no {CONFIG}; {files}")
    if safe.is_file():
        return safe
    if pickled.is_file():
        raise MsdmError(f"{pickled} is a pickle, which is not loaded; run: {conversion(pickled, safe)}")
    raise MsdmError(f"{folder} has no {WEIGHTS}; {files}")


def _cached(repository: str, file: str, revision: str) -> Path | None:
    """A file in the local cache of huggingface_hub. Nobody is asked: that takes 25 s without a network."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(repository, file, revision=revision or None)
    except HFValidationError:
        raise MsdmError(f"model '{HUB}{repository}' names no repository; write {HUB}OWNER/NAME") from None
    return Path(found) if isinstance(found, str) else None


def _missing(model: str, repository: str, files: str) -> MsdmError:
    return MsdmError(
        f"the weights of {model!r} are not on this machine, and nothing is downloaded unasked; run: "
        f"hf download {repository} {files} (log in first where its terms must be accepted), or "
        f"give model={LOCAL}FOLDER"
    )


def _create(located: _Located, model: str, arguments: dict[str, Any]) -> Any:
    import timm
    from safetensors import SafetensorError

    try:
        return timm.create_model(
            located.name,
            pretrained=True,
            # the file itself: the sources that timm would take otherwise reach for the network
            pretrained_cfg_overlay={"file": str(located.weights), "source": "file"},
            num_classes=0,
            **arguments,
        )
    except (
        RuntimeError,
        ValueError,
        KeyError,
        TypeError,
        OSError,
        SafetensorError,
        json.JSONDecodeError,
    ) as error:
        reason = " ".join(str(error).split())[:200]
        raise MsdmError(
            f"the weights {located.weights} do not make model {model!r}: {reason}; save them again with timm"
        ) from None


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
