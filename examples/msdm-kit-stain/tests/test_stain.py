import numpy as np
from msdm_kit_stain.macenko import stain_vectors

from msdm_kit.plugins.testing import ConditionerConformance, RecipeConformance


class TestStain(ConditionerConformance):
    plugin = "stain"


class TestRecipe(RecipeConformance):
    plugin = "stain"


def test_two_stains_that_are_known():
    haematoxylin, eosin = np.array([0.65, 0.70, 0.29]), np.array([0.21, 0.91, 0.36])
    stains = np.stack([v / np.linalg.norm(v) for v in (haematoxylin, eosin)])
    rng = np.random.default_rng(0)
    amounts = rng.uniform(0.4, 1.0, (64 * 64, 2))
    amounts[: 64 * 8, 1] = amounts[-64 * 8 :, 0] = 0  # pixels of one stain alone
    levels = np.rint(256 * 10 ** -(amounts @ stains) - 1)
    image = (levels / 127.5 - 1).T.reshape(3, 64, 64).astype(np.float32)
    vectors, strengths = stain_vectors(image, beta=0.05)
    degrees = np.degrees(np.arccos(np.clip((vectors * stains).sum(axis=1), -1, 1)))
    assert degrees.max() < 2
    np.testing.assert_allclose(strengths, 1, atol=0.1)


def test_white_has_no_stain():
    assert stain_vectors(np.ones((3, 16, 16), np.float32)) is None
