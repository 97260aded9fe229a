import math

import numpy as np
import pytest
from msdm_kit_density.conditioner import density

from msdm_kit.plugins.testing import ConditionerConformance, RecipeConformance


class TestDensity(ConditionerConformance):
    plugin = "density"


class TestRecipe(RecipeConformance):
    plugin = "density"


def test_one_instance_is_a_gaussian_at_its_centre():
    labels = np.zeros((81, 91), np.int32)
    labels[38:43, 48:53] = 7
    found = density(labels, 4.0)
    assert np.unravel_index(found.argmax(), found.shape) == (40, 50)
    assert found[40, 50] == pytest.approx(1, rel=0.01)
    assert found[40, 54] == pytest.approx(math.exp(-0.5), rel=0.01)


def test_the_sum_counts_instances():
    labels = np.zeros((200, 200), np.int32)
    for k, (y, x) in enumerate([(60, 60), (60, 140), (100, 100), (130, 80)], start=1):
        labels[y : y + 7, x : x + 5] = 3 * k
    assert density(labels, 5.0).sum() / (2 * math.pi * 25) == pytest.approx(4, rel=0.01)


def test_no_instance_is_zero():
    assert not density(np.zeros((9, 9), np.int32), 3.0).any()
