"""Classifier-free guidance with one scale for all conditions or one for each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .recipe import Variance


@dataclass(frozen=True)
class Branch:
    """One evaluation of the network.

    Attributes
    ----------
    present : frozenset of str
        The conditions that it sees; all others are absent.
    weight : float
        Its weight in the sum; the weights of a plan add up to 1.
    """

    present: frozenset[str]
    weight: float


def plan(
    guidance: float | Mapping[str, float], names: Sequence[str], variance: Variance = "fixed_small"
) -> list[Branch]:
    """The evaluations that a guidance scale asks for, in the order of what they see.

    With one scale s: out = out(0) + s (out(all) - out(0)) (Ho and Salimans 2022, equation 6). With one scale
    per condition the differences are nested in the order of `names` (Brooks et al. 2023, equation 3):
    out(0) + s_1 (out(1) - out(0)) + s_2 (out(1, 2) - out(1)) + ... Evaluations whose weight is 0 are left
    out, so that equal neighbouring scales share one, and the scales 0 and 1 cost a single evaluation; but the
    fully conditioned one stays, as the last, where it gives a learned variance.

    Parameters
    ----------
    guidance : float or mapping name -> float
        A condition that a mapping does not name has scale 1.
    names : sequence of str
        The conditions, in the recipe's order.
    variance : {'fixed_small', 'fixed_large', 'learned_range'}

    Returns
    -------
    list of Branch
        At least one.

    Examples
    --------
    >>> [(sorted(b.present), b.weight) for b in plan(1.5, ["hv", "rgb"])]
    [([], -0.5), (['hv', 'rgb'], 1.5)]
    """
    scales = [guidance.get(n, 1.0) if isinstance(guidance, Mapping) else guidance for n in names]
    branches = []
    for k in range(len(names) + 1):
        own = scales[k - 1] if k else 1.0
        following = scales[k] if k < len(names) else 0.0
        weight = own - following
        if weight or (k == len(names) and variance == "learned_range"):
            branches.append(Branch(frozenset(names[:k]), weight))
    return branches


def combine(branches: Sequence[Branch], outputs: Sequence[Tensor], variance: Variance) -> Tensor:
    """The weighted sum of the branches' raw outputs; a learned variance stays the conditioned one."""
    if len(outputs) == 1 and branches[0].weight == 1.0:
        return outputs[0]
    # as out(0) + s (out(c) - out(0)), not as a weighted sum: the rounding is then the reference's
    out = outputs[0]
    passed = branches[0].weight
    for branch, before, now in zip(branches[1:], outputs, outputs[1:], strict=False):
        out = out + (1.0 - passed) * (now - before)
        passed += branch.weight
    if variance == "learned_range":
        c = out.shape[1] // 2
        out = torch.cat([out[:, :c], outputs[-1][:, c:]], dim=1)
    return out
