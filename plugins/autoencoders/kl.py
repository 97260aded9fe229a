"""The autoencoder of latent diffusion, with weights that the user has."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from ...core.autoencoder import Autoencoder
from ...core.conditioning import PluginConfig
from ...core.errors import MsdmError
from ...core.model_folder import conversion, find_model
from ...core.reading import parse_json, read_text

WEIGHTS = "diffusion_pytorch_model.safetensors"
_FILES = f"give a folder with config.json and {WEIGHTS}, as diffusers saves an AutoencoderKL"
_RENAMED = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Attention's names in files of older versions of diffusers."""

_Width = Annotated[int, Field(ge=1, le=4096)]
_Down = Literal["DownEncoderBlock2D", "AttnDownEncoderBlock2D"]
_Up = Literal["UpDecoderBlock2D", "AttnUpDecoderBlock2D"]
_Numbers = tuple[float, ...]


class _Shape(BaseModel):
    """What of a ``config.json`` says how the network looks, within sane limits."""

    model_config = ConfigDict(extra="ignore", frozen=True)
    in_channels: Literal[3] = 3
    out_channels: Literal[3] = 3
    down_block_types: tuple[_Down, ...] = Field(("DownEncoderBlock2D",), max_length=8)
    up_block_types: tuple[_Up, ...] = Field(("UpDecoderBlock2D",), max_length=8)
    block_out_channels: tuple[_Width, ...] = Field((64,), min_length=1, max_length=8)
    layers_per_block: int = Field(1, ge=1, le=16)
    act_fn: Literal["silu", "swish", "mish", "gelu", "relu"] = "silu"
    latent_channels: int = Field(4, ge=1, le=256)
    norm_num_groups: int = Field(32, ge=1, le=4096)
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    mid_block_add_attention: bool = True


class _Scaling(BaseModel):
    """What of a ``config.json`` says how latents are brought to unit variance."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)
    scaling_factor: float = Field(0.18215, gt=0)
    shift_factor: float | None = None
    latents_mean: _Numbers | None = None
    latents_std: _Numbers | None = None


class KLConfig(PluginConfig):
    """Settings of `KL`."""

    model: str = Field(
        min_length=1,
        description="Folder with config.json and diffusion_pytorch_model.safetensors, or the id of such a "
        "model in the local Hugging Face cache.",
    )


class KL(Autoencoder):
    """AutoencoderKL of diffusers: the mean of its posterior, brought to about unit variance.

    The first stage of latent diffusion with a Kullback-Leibler penalty (Rombach et al. 2022, section 3.1).
    The latent is (mean - shift) x scale with the ``scaling_factor`` of ``config.json``, and the
    ``shift_factor`` or ``latents_mean`` and ``latents_std`` where there are any. Weights are read from
    safetensors alone, from disc. It needs the package diffusers.

    Raises
    ------
    MsdmError
        The package, the folder or a file is not there, or is not what it should be.
    """

    Config: ClassVar[type[PluginConfig]] = KLConfig

    def __init__(self, config: KLConfig) -> None:
        super().__init__(config)
        kind = _kind()
        self.folder = find_model(config.model, "autoencoder", "or leave out the section `autoencoder`")
        shape, scaling = _read_config(self.folder / "config.json")
        self.channels = shape.latent_channels
        self.stride = 2 ** (len(shape.block_out_channels) - 1)
        # without memory until the weights are known to fit
        with torch.device("meta"):
            try:
                self.network = kind(**shape.model_dump())
            except Exception as error:
                text = " ".join(f"{type(error).__name__}: {error}".split())
                raise MsdmError(f"{self.folder / 'config.json'} makes no AutoencoderKL: {text}") from None
        mean = scaling.latents_mean or (scaling.shift_factor or 0.0,)
        deviation = scaling.latents_std or (1.0,)
        if {len(mean), len(deviation)} - {1, self.channels} or min(deviation) <= 0:
            raise MsdmError(
                f"{self.folder / 'config.json'}: latents_mean and latents_std give {self.channels} numbers "
                f"each, the latter above 0"
            )
        self.shift: Tensor
        self.scale: Tensor
        self.register_buffer("shift", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("scale", scaling.scaling_factor / torch.tensor(deviation).view(1, -1, 1, 1))

    def initialise(self) -> None:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = self.folder / WEIGHTS
        if not path.is_file():
            if (pickled := path.with_suffix(".bin")).is_file():
                raise MsdmError(
                    f"{pickled} is a pickle, which is not loaded; run: {conversion(pickled, path)}"
                )
            raise MsdmError(f"no file {path}; {_FILES}")
        try:
            tensors = load_file(path)
        except (SafetensorError, OSError, TypeError) as error:
            cause = str(error).partition("\n")[0]
            raise MsdmError(f"{path} is not a readable safetensors file: {cause}; get it anew") from None
        tensors = {_renamed(name): tensor.float() for name, tensor in tensors.items()}
        own = self.network.state_dict()
        wrong = sorted(own.keys() ^ tensors.keys())
        wrong = wrong or [name for name in own if own[name].shape != tensors[name].shape]
        if wrong:
            raise MsdmError(
                f"{path} does not fit {self.folder / 'config.json'}: {len(wrong)} weights differ, the first "
                f"is {wrong[0]}; {_FILES}"
            )
        self.network.load_state_dict(tensors, assign=True)

    def encode(self, image: Tensor) -> Tensor:
        mean: Tensor = self.network.encode(image).latent_dist.mode()
        return (mean - self.shift) * self.scale

    def decode(self, latent: Tensor) -> Tensor:
        image: Tensor = self.network.decode(latent / self.scale + self.shift).sample
        return image


def _kind() -> Any:
    try:
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    except ImportError as error:
        raise MsdmError(
            f"autoencoder kl needs the package diffusers ({error}); pip install 'msdm-kit[diffusers]'"
        ) from None
    return AutoencoderKL


def _read_config(path: Path) -> tuple[_Shape, _Scaling]:
    try:
        data = parse_json(read_text(path))
        if not isinstance(data, dict) or data.get("_class_name") != "AutoencoderKL":
            named = data.get("_class_name") if isinstance(data, dict) else type(data).__name__
            raise MsdmError(f"{path} describes {named}, not an AutoencoderKL; {_FILES}")
        return _Shape.model_validate(data), _Scaling.model_validate(data)
    except FileNotFoundError:
        raise MsdmError(f"no file {path}; {_FILES}") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise MsdmError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}; {_FILES}") from None
    except (OSError, ValueError) as error:
        raise MsdmError(f"{path} is not readable JSON: {' '.join(str(error).split())}; get it anew") from None


def _renamed(name: str) -> str:
    parts = name.split(".")
    if "attentions" in parts and len(parts) > 1 and parts[-2] in _RENAMED:
        parts[-2] = _RENAMED[parts[-2]]
    return ".".join(parts)
