import pytest
import torch
from torch import nn

from msdm_kit.core.ema import Ema
from msdm_kit.core.recipe import EmaSection


def module():
    m = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    m[1].bias.requires_grad_(False)
    return m


def test_the_average_by_hand_with_warm_up():
    m = module()
    ema = Ema(m, EmaSection(decay=0.5, warmup=10))
    expected = m[0].weight.detach().double().clone()
    for n in range(20):
        with torch.no_grad():
            m[0].weight += n + 1
        decay = min(0.5, (1 + n) / (10 + n))
        assert ema.decay == decay
        ema.update()
        expected = decay * expected + (1 - decay) * m[0].weight.detach().double()
    assert ema.updates == 20
    torch.testing.assert_close(ema.shadow["0.weight"].double(), expected, rtol=1e-5, atol=1e-5)


def test_without_warm_up_the_decay_is_constant():
    ema = Ema(module(), EmaSection(decay=0.9, warmup=1))
    assert ema.decay == 0.9


@pytest.mark.parametrize(("decay", "kept"), [(0.0, False), (1.0, True)])
def test_the_ends(decay, kept):
    m = module()
    before = m[0].weight.detach().clone()
    ema = Ema(m, EmaSection(decay=decay, warmup=1))
    with torch.no_grad():
        m[0].weight.mul_(2)
    ema.update()
    assert torch.equal(ema.shadow["0.weight"], before if kept else 2 * before)


def test_only_what_is_trained_is_averaged():
    assert set(Ema(module(), EmaSection()).shadow) == {"0.weight", "0.bias", "1.weight"}


def test_applied_and_put_back():
    m = module()
    ema = Ema(m, EmaSection(decay=0.9, warmup=1))
    with torch.no_grad():
        m[0].weight += 1
    ema.update()
    own, parameter = m[0].weight.detach().clone(), m[0].weight
    with ema.applied():
        assert m[0].weight is parameter
        assert torch.equal(m.state_dict()["0.weight"], ema.shadow["0.weight"])
        assert not torch.equal(m[0].weight, own)
    assert torch.equal(m[0].weight, own)
    with pytest.raises(RuntimeError), ema.applied():
        raise RuntimeError
    assert torch.equal(m[0].weight, own)
