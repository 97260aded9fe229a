"""A small AutoencoderKL, as diffusers saves one."""

from pathlib import Path
from typing import Any

import torch


def save_kl(folder: Path, seed: int = 0, **settings: Any) -> Path:
    """An AutoencoderKL of 4 channels and stride 2 with random weights, in a folder."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    small = {
        "block_out_channels": (4, 8),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "norm_num_groups": 2,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        AutoencoderKL(**{**small, **settings}).save_pretrained(folder, safe_serialization=True)
    return folder
