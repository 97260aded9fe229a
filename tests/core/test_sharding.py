"""What is split among processes; whole runs are in tests/plugins/test_many_processes.py."""

import pytest
import torch
from torch import nn

from msdm_kit.core.errors import MsdmError
from msdm_kit.core.processes import Processes
from msdm_kit.core.sharding import own_part, shard, split_as, with_part

from ..toy import toy_denoiser


def test_what_is_not_split_is_as_it_is():
    p = nn.Parameter(torch.randn(4, 3, 3, 3)).to(memory_format=torch.channels_last)
    assert own_part(p) is p
    other = torch.randn(4, 3, 3, 3)
    assert with_part(p, other) is other
    taken = split_as(other, p.detach())
    assert torch.equal(taken, other)
    assert taken.stride() == p.stride()


def test_a_weight_that_cannot_be_split_is_refused():
    with pytest.raises(MsdmError, match=r"the weight conditioners\.film\.weight is a single number of shape"):
        shard(nn.Module(), toy_denoiser("film"), Processes(0, 2))


def test_a_backbone_lists_blocks_that_lie_apart():
    backbone = toy_denoiser("spade").backbone
    inside = [id(m) for block in backbone.blocks for m in block.modules()]
    assert len(inside) == len(set(inside))
    held = sum(p.numel() for block in backbone.blocks for p in block.parameters())
    assert held > 0.8 * sum(p.numel() for p in backbone.parameters())
