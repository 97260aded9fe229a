"""A network whose weights, gradients, moments and averages are split among processes (FSDP2).

Zhao et al. 2023, "PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel"; the interface is
`torch.distributed.fsdp.fully_shard`.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from .errors import MsdmError
from .injection import Injector
from .processes import Processes

if TYPE_CHECKING:
    from .denoiser import Denoiser


def shard(root: nn.Module, denoiser: "Denoiser", here: Processes) -> None:
    """Split the weights of a network among the processes, in place.

    What a pass gathers at a time are the modules that the backbone lists, the injectors, one by one, and all
    the rest together.

    Parameters
    ----------
    root : nn.Module
        Holds the denoiser; it is called for every pass.
    denoiser : Denoiser
        On its device; the same in every process.
    here : Processes

    Raises
    ------
    MsdmError
        A weight has no dimension to be split along.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    for name, p in denoiser.named_parameters():
        if p.ndim == 0:
            raise MsdmError(
                f"train.sharding=full: the weight {name} is a single number of shape (), which cannot be "
                f"split; give it the shape (1,) in its plugin, or take train.sharding=none"
            )
    # it splits weights that lie in memory in the order of their dimensions
    denoiser.to(memory_format=torch.contiguous_format)
    device = next(denoiser.parameters()).device
    mesh = init_device_mesh(device.type, (here.count,))
    parts = [*denoiser.backbone.blocks, *(m for m in denoiser.modules() if isinstance(m, Injector))]
    for part in parts:
        if any(True for _ in part.parameters()):
            fully_shard(part, mesh=mesh)
        if isinstance(part, Injector):
            for method in ("prepare", "inject"):
                vars(part)[method] = _without_views(getattr(part, method))
                register_fsdp_forward_method(part, method)
    fully_shard(root, mesh=mesh)


def _without_views(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method whose outputs are no views of other tensors: who called it may change them in place.

    FSDP2 gathers weights for the backward pass by a hook on the output, which is lost when a view is changed.
    """

    def own(leaf: Any) -> Any:
        return leaf.clone() if isinstance(leaf, Tensor) and leaf._is_view() else leaf

    return lambda *inputs: tree_map(own, method(*inputs))


def is_split(tensor: Tensor) -> bool:
    """Whether this process holds only a part of a tensor: whether it is a DTensor."""
    return hasattr(tensor, "to_local")  # their class takes a second to import


def own_part(tensor: Any) -> Tensor:
    """What this process holds of a tensor: its part of a split one, in the same memory."""
    part: Tensor = tensor.to_local() if is_split(tensor) else tensor
    return part


def with_part(like: Tensor, part: Tensor) -> Tensor:
    """The tensor that is split in the same way as `like`, and of which this process holds `part`."""
    if not is_split(like):
        return part
    from torch.distributed.tensor import DTensor

    assert isinstance(like, DTensor)
    return DTensor.from_local(part, like.device_mesh, like.placements, shape=like.shape, stride=like.stride())


def whole(tensor: Tensor) -> Tensor:
    """A tensor in full, in every process: where it is split, all call it."""
    if not is_split(tensor):
        return tensor
    from torch.distributed.tensor import DTensor

    assert isinstance(tensor, DTensor)
    return tensor.full_tensor()


def split_as(tensor: Tensor, like: Tensor) -> Tensor:
    """A full tensor as `like` is: split in the same way, on the same device, in its memory format."""
    if not is_split(like):
        return torch.empty_like(like).copy_(tensor)
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(like, DTensor)
    full = tensor.to(device=like.device, dtype=like.dtype).contiguous()
    # every process has it in full: nothing is sent
    return distribute_tensor(full, like.device_mesh, like.placements, src_data_rank=None)
