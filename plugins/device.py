"""The device to compute on."""

import torch

from ..core.errors import MsdmError


def pick_device(name: str | None) -> torch.device:
    """A device by name; None takes a CUDA device where there is one, otherwise the CPU.

    Raises
    ------
    MsdmError
        There is no such device here.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type == "meta":  # has shapes and no numbers
            raise RuntimeError
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        legal = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        raise MsdmError(f"no device {name!r} here; legal: {', '.join(legal)}") from None
    return device
