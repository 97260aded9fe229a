"""The public SDM reference beside ours: the same weights, the same map, the same noise, in one process.

The reference is a checkout that the user names, of https://github.com/WeilunWang/semantic-diffusion-model:

    git clone https://github.com/WeilunWang/semantic-diffusion-model /tmp/sdm

None of its code is here. Of what it imports, `mpi4py` and `blobfile` are not needed: empty modules stand in.
"""

import argparse
import importlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from msdm_kit.core.conditioning import Conditioner, Observation, PluginConfig, Signal, Spec
from msdm_kit.core.denoiser import Denoiser
from msdm_kit.core.kernels.convolutions import accelerated
from msdm_kit.core.precision import autocast, lowered
from msdm_kit.core.recipe import Recipe
from msdm_kit.core.sample import Sample
from msdm_kit.core.sampling import SampleNoise
from msdm_kit.plugins.build import build_denoiser
from msdm_kit.plugins.convert_run import converted_recipe
from msdm_kit.plugins.convert_sdm import convert, describe
from msdm_kit.plugins.pipeline import Pipeline

MAP_CHANNELS = 16
"""HV maps and colour statistics of cells and nuclei: 4 + 12."""
SCHEDULE = "cosine"
"""Of MSDM."""
TIMESTEPS = 1000
SEED = 0


@dataclass(frozen=True)
class Config:
    """A network, by the reference's words.

    Attributes
    ----------
    size : int
        Side of the image in pixels.
    channels : int
        Base width.
    head : int
        Channels of an attention head.
    multipliers : tuple of float
    attention : tuple of int
        Sides of the feature maps with self-attention, in pixels.
    blocks : int
        Residual blocks per level.
    """

    size: int
    channels: int
    head: int
    multipliers: tuple[float, ...] = (0.5, 1, 1, 2, 2, 4, 4)
    attention: tuple[int, ...] = (32, 16, 8)
    blocks: int = 2

    @property
    def strides(self) -> tuple[int, ...]:
        """Strides with self-attention."""
        return tuple(self.size // side for side in self.attention)


CONFIGS: Mapping[str, Config] = {
    "XS": Config(size=32, channels=32, head=16, multipliers=(1, 2), attention=(16,), blocks=1),
    "S": Config(size=128, channels=64, head=32),
    "M": Config(size=128, channels=128, head=64),
    "L": Config(size=256, channels=256, head=64),
    "512": Config(size=512, channels=256, head=64),
}


class Reference:
    """A checkout of the reference, imported into this process.

    Parameters
    ----------
    folder : str or Path
        The checkout: the folder that holds `guided_diffusion`.

    Raises
    ------
    SystemExit
        It is no such folder.
    """

    def __init__(self, folder: str | Path) -> None:
        folder = Path(folder).resolve()
        if not (folder / "guided_diffusion" / "unet.py").is_file():
            sys.exit(f"{folder} is no checkout of SDM: it has no guided_diffusion/unet.py")
        for name, attributes in {"mpi4py": ("MPI",), "blobfile": ()}.items():
            stand_in = ModuleType(name)
            for attribute in attributes:
                setattr(stand_in, attribute, None)
            sys.modules.setdefault(name, stand_in)
        sys.path.insert(0, str(folder))
        # what it logs goes nowhere
        logger = self.module("logger")
        logger.Logger.CURRENT = logger.Logger(dir=None, output_formats=[])

    def module(self, name: str) -> Any:
        """One of its modules."""
        return importlib.import_module(f"guided_diffusion.{name}")

    def unet(self, config: Config, device: str | torch.device = "cpu") -> Any:
        """Its network, with random weights (none on ``meta``), in evaluation mode."""
        with torch.device("meta"):
            model = self.module("unet").UNetModel(
                image_size=config.size,
                in_channels=3,
                model_channels=config.channels,
                out_channels=3,
                num_res_blocks=config.blocks,
                attention_resolutions=config.strides,
                channel_mult=config.multipliers,
                num_classes=MAP_CHANNELS,
                num_head_channels=config.head,
                use_scale_shift_norm=True,
                resblock_updown=True,
            )
        if torch.device(device).type != "meta":
            model.to_empty(device="cpu")
            randomise(model)
            model.to(device)
        return model.eval()

    def diffusion(self, steps: int | None = None) -> Any:
        """Its diffusion: of all time steps, or respaced to its ``ddimN``."""
        g, respace = self.module("gaussian_diffusion"), self.module("respace")
        return respace.SpacedDiffusion(
            use_timesteps=respace.space_timesteps(TIMESTEPS, f"ddim{steps}" if steps else [TIMESTEPS]),
            betas=g.get_named_beta_schedule(SCHEDULE, TIMESTEPS),
            model_mean_type=g.ModelMeanType.EPSILON,
            model_var_type=g.ModelVarType.FIXED_SMALL,
            loss_type=g.LossType.MSE,
        )


@torch.no_grad()
def randomise(model: nn.Module) -> None:
    """Draw every weight, in the order of the names.

    The last layer of every branch starts at zero, and zero would hide what comes before it. It gets a quarter
    of the others' width, the head an eighth: with more a trajectory amplifies rounding until the reference
    does not agree with itself.
    """
    g = torch.Generator().manual_seed(SEED)
    last = {"out.2": 8, "out_layers.2": 4, "out_layers.3": 4, "proj_out": 4}
    for name, p in model.named_parameters():
        p.uniform_(-1, 1, generator=g)
        if p.ndim > 1:
            layer = name.removesuffix(".weight")
            less = next((v for k, v in last.items() if layer == k or layer.endswith(f".{k}")), 1)
            p.div_(less * float(np.prod(p.shape[1:])) ** 0.5)
        else:
            p.mul_(0.1)
            if name.endswith(".weight"):  # the scale of a normalisation
                p.add_(1)
    _predict_input(model)


def _predict_input(model: Any) -> None:
    """Let the prediction be the normalised input and a random network's on top, as a denoiser's nearly is.

    Of noise alone the input is the right answer. Without it every pixel of a trajectory runs into the clip at
    -1 or 1 and stays there, and errors of images say nothing. The way leads over the first convolution, the
    last block's skip connection, and SiLU(u) - SiLU(-u) = u behind the head's norm.
    """
    first, skip = model.input_blocks[0][0], model.output_blocks[-1][0].skip_connection
    norm, last = model.out[0], model.out[2]
    width = first.out_channels
    each = width // norm.num_groups
    for colour in range(3):
        for k, sign in enumerate((1, -1)):
            to = (2 * colour + k) * each
            group = slice(to, to + each)
            for layer in (first, skip):
                layer.weight[group], layer.bias[group] = 0, 0
            first.weight[to, colour, 1, 1] = sign
            skip.weight[to, skip.in_channels - width + to] = 1
            last.weight[:, group] = 0
            last.weight[colour, to, 1, 1] = sign / each**0.5


class GivenMap(Conditioner):
    """A condition that is one given map; absent it is zero, as in the reference."""

    def __init__(self, data: Tensor) -> None:
        super().__init__(PluginConfig(), {})
        self.data = data.cpu()
        self.spec = Spec("map", data.shape[0])

    def observe(self, sample: Sample) -> Observation:
        return {"map": self.data}

    def encode(self, batch: Observation) -> Signal:
        return Signal(batch["map"])

    def null(self, like: Signal) -> Signal:
        # an expanded view: known by its strides to be the same at every pixel
        return Signal(like.data.new_zeros(1, self.spec.width, 1, 1).expand_as(like.data))


def guide(config: Config) -> Tensor:
    """A map (16, size, size) in [-1, 1], in patches, a third of which are background."""
    g = torch.Generator().manual_seed(SEED)
    coarse = torch.rand(1, MAP_CHANNELS, 16, 16, generator=g) * 2 - 1
    coarse *= torch.rand(1, 1, 16, 16, generator=g) > 1 / 3
    return nn.functional.interpolate(coarse, size=(config.size, config.size))[0]


def our_recipe(config: Config, reference: Reference) -> Recipe:
    """What `msdm-kit convert sdm` makes of a checkpoint of that network."""
    shape = describe(reference.unet(config, "meta").state_dict())
    return converted_recipe(
        shape,
        name="benchmark",
        conditioners={"map": "hv_maps"},  # GivenMap in its place
        masks=["cell", "nucleus"],
        edges=False,
        image_size=config.size,
        head_channels=config.head,
        schedule=SCHEDULE,
        timesteps=TIMESTEPS,
        drop=0.2,
    )


def our_denoiser(
    recipe: Recipe, config: Config, model: nn.Module | None, device: str | torch.device = "cpu"
) -> Denoiser:
    """Our network, with the weights of `model`, or random ones (none on ``meta``)."""
    given = GivenMap(guide(config))
    with torch.device(device):
        denoiser = build_denoiser(recipe, {"map": given})
    if model is not None:
        denoiser.load_state_dict(convert(model.state_dict()))
    return denoiser


class Ours:
    """Our side: pipelines with the weights of a reference model.

    Parameters
    ----------
    reference : Reference
    config : Config
    model : nn.Module or None
        The reference's, in fp32; None leaves our weights random.
    device : str or torch.device
    """

    def __init__(
        self,
        reference: Reference,
        config: Config,
        model: nn.Module | None,
        device: str | torch.device = "cpu",
    ) -> None:
        recipe = our_recipe(config, reference)
        denoiser = our_denoiser(recipe, config, model).to(device).to(memory_format=torch.channels_last)
        self.config, self.device = config, torch.device(device)
        self.recipe, self.denoiser = recipe, denoiser
        self._pipelines: dict[str, Pipeline] = {}

    def fields(self, batch: int) -> list[Sample]:
        """Fields to paint; only their ids count."""
        size = (self.config.size, self.config.size)
        empty = np.zeros(size, np.int32)
        image = np.zeros((3, *size), np.float32)
        return [Sample(f"f{i}", {"cell": empty, "nucleus": empty}, image, {}) for i in range(batch)]

    def noise(self, batch: int) -> Tensor:
        """The noise that `sample` starts from."""
        ids = [f.id for f in self.fields(batch)]
        shape = (3, self.config.size, self.config.size)
        return SampleNoise(SEED, ids, shape, self.device)().contiguous()

    def sample(self, batch: int, **settings: Any) -> Tensor:
        """Painted images (B, 3, H, W)."""
        pipeline = self.pipeline(**settings)
        painted = pipeline.sample(self.fields(batch), seed=SEED, batch=batch, **settings)
        return torch.stack([torch.from_numpy(s.image) for s in painted])

    def pipeline(self, **settings: Any) -> Pipeline:
        """One for these settings alone, on the same weights: what it keeps for the next call stays."""
        key = repr(sorted(settings.items()))
        if key not in self._pipelines:
            self._pipelines[key] = Pipeline(self.recipe, self.denoiser, weights_hash="", step=0)
        return self._pipelines[key]

    def forget(self) -> None:
        """Drop the pipelines and what they keep."""
        self._pipelines.clear()

    @torch.inference_mode()
    def forward(self, x: Tensor, t: Tensor, precision: str) -> Tensor:
        """One pass of the network, as a sampler runs it."""
        denoiser = accelerated(lowered(self.denoiser.eval(), "bf16" if precision == "bf16" else "fp32"))
        data = guide(self.config).to(self.device).expand(len(x), -1, -1, -1)
        with autocast(self.device, "bf16" if precision == "bf16" else "fp32"):
            out: Tensor = denoiser(x, t, denoiser.encode({"map": {"map": data}}))
        return out


def add_options(parser: argparse.ArgumentParser, configs: list[str], repeats: int) -> None:
    """The options that the benchmarks against the reference share."""
    parser.add_argument("--reference", required=True, help="checkout of the public SDM repository")
    parser.add_argument("--config", nargs="+", default=configs, choices=CONFIGS)
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=repeats, help="timed rounds; one more warms up")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())


def set_up(args: argparse.Namespace) -> Reference:
    """Threads, exact fp32, and the reference."""
    torch.set_num_threads(args.threads)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    return Reference(args.reference)
