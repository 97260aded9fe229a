import torch
from torch import nn

from msdm_kit.core.copies import shared_copy


def network():
    shared = nn.Linear(2, 2)
    return nn.Sequential(shared, nn.BatchNorm1d(2), nn.ModuleList([shared]))


def test_modules_are_copied_and_what_they_hold_is_not():
    mine = network()
    twin = shared_copy(mine)
    assert not {id(m) for m in mine.modules()} & {id(m) for m in twin.modules()}
    own, held = ({**dict(m.named_parameters()), **dict(m.named_buffers())} for m in (mine, twin))
    assert own.keys() == held.keys()
    assert all(own[name] is held[name] for name in own)
    assert twin[0] is twin[2][0]


def test_what_stands_instead_stands_everywhere_and_only_in_the_copy():
    mine = network()
    weight, mean = nn.Parameter(torch.zeros(2, 2)), torch.ones(2)
    before = mine[0].weight
    twin = shared_copy(mine, {id(mine[0].weight): weight, id(mine[1].running_mean): mean})
    assert twin[0].weight is twin[2][0].weight is weight
    assert twin[1].running_mean is mean
    assert twin[0].bias is mine[0].bias
    assert mine[0].weight is mine[2][0].weight is before
