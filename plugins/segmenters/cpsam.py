"""Cellpose-SAM, with weights that the user has."""

from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from ...core.conditioning import PluginConfig
from ...core.errors import MsdmError
from ...core.model_folder import conversion
from .flow_segmenter import FlowConfig, FlowSegmenter
from .flows import cellpose, need_version

CROP = 256
"""The one size that the network takes."""
GET = (
    "hf download mouseland/cellpose-sam cpsam_v2 --local-dir . && "
    f"{conversion(Path('cpsam_v2'), Path('cpsam_v2.safetensors'))}"
)


class CPSAMConfig(FlowConfig):
    """Settings of `cpsam` (Pachitariu et al., bioRxiv 2025.04.28.651001); others are in `FlowConfig`.

    Nothing is ever downloaded.
    """

    weights: Path | None = Field(
        None,
        description="Cellpose-SAM's weights as safetensors; a fine-tuned model has its own.",
    )
    epochs: int = Field(
        100,
        gt=10,
        description="Passes over the fields; the learning rate grows over the first 10.",
    )
    batch: int = Field(1, ge=1, description="Crops per step of AdamW.")
    learning_rate: float = Field(1e-5, gt=0, description="Of AdamW.")


class CPSAM(FlowSegmenter):
    """Cellpose 4's network of 305 million parameters, in single precision; `fit` fine-tunes it."""

    Config: ClassVar[type[PluginConfig]] = CPSAMConfig
    name = "cpsam"
    pretrained = True

    def __init__(self, config: Any, kind: str, device: torch.device) -> None:
        need_version(4, self.name, "cpnet")
        super().__init__(config, kind, device)

    def check(self) -> None:
        find_weights(self.config.weights)

    def architecture(self) -> nn.Module:
        network: nn.Module = cellpose("vit").CPSAM(dtype=torch.float32)
        return network

    def begin(self, network: nn.Module) -> None:
        tensors = read_weights(find_weights(self.config.weights))
        try:
            network.load_state_dict(tensors)
        except RuntimeError:
            raise MsdmError(
                f"{self.config.weights} does not hold the weights of Cellpose-SAM; get them with: {GET}"
            ) from None

    @property
    def crop(self) -> int:
        return CROP

    def tile(self, height: int, width: int) -> int:
        return CROP


def find_weights(path: Path | None) -> Path:
    """The file of the weights.

    Raises
    ------
    MsdmError
        None is given, or it is not there.
    """
    if path is None:
        raise MsdmError(
            f"Cellpose-SAM needs its weights, and none are ever downloaded; get them with: {GET} and give "
            f"cpsam:weights=cpsam_v2.safetensors"
        )
    if not path.is_file():
        raise MsdmError(f"no file {path} with the weights of Cellpose-SAM; get it with: {GET}")
    if path.suffix != ".safetensors":
        safe = path.with_name(f"{path.name}.safetensors")
        raise MsdmError(f"{path} is no .safetensors file; run: {conversion(path, safe)} and give {safe}")
    return path


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a file of Cellpose's, as ``msdm-kit convert weights`` wrote it.

    Raises
    ------
    MsdmError
        It is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(path)
    except (SafetensorError, OSError, TypeError) as error:
        first = " ".join(str(error).split())[:80]
        raise MsdmError(
            f"{path} cannot be read as Cellpose's weights ({first}); get them with: {GET}"
        ) from None
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}
