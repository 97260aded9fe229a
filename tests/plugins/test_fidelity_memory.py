"""Copies of real fields are found however they lie, and new paintings on their masks are none."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from msdm_kit.core.sample import Sample
from msdm_kit.plugins.fidelity.fidelity import fidelity
from msdm_kit.plugins.fidelity.memory import memorisation, oriented

from ..painted import EMBEDDER, PER, honest, measured, of_honest, real, renamed


def flagged(synthetic) -> list[bool]:
    features = np.zeros((len(real()), 2)), np.zeros((len(synthetic), 2))
    found = memorisation(list(real()), list(synthetic), *features)
    return [n.copy for n in found.neighbours]


def copies(change, masks=None) -> list[Sample]:
    made = []
    for sample in real()[:PER]:
        labels = sample.masks["nucleus"]
        masks_of = {"nucleus": np.ascontiguousarray(labels if masks is None else masks(labels))}
        made.append(replace(renamed(sample, change(sample.image)), masks=masks_of))
    return made


def noisy(image):
    return image + np.random.default_rng(0).normal(0, 4 / 127.5, image.shape)


@pytest.mark.parametrize(
    ("change", "masks"),
    [
        (lambda image: image, None),
        (noisy, None),
        (lambda image: gaussian_filter(image, (0, 1, 1)), None),
        (lambda image: image * 0.8 + np.array([0.1, -0.1, 0])[:, None, None], None),
        (lambda image: image[:, :, ::-1], lambda m: m[:, ::-1]),
        (lambda image: image[:, ::-1], lambda m: m[::-1]),
        (lambda image: np.rot90(image, 1, (1, 2)), lambda m: np.rot90(m, 1)),
        (lambda image: np.rot90(image[:, :, ::-1], 3, (1, 2)), lambda m: np.rot90(m[:, ::-1], 3)),
        (lambda image: np.roll(image, (3, -4), (1, 2)), lambda m: np.roll(m, (3, -4), (0, 1))),
    ],
    ids=[
        "same",
        "noise",
        "blur",
        "colours",
        "mirrored",
        "upside-down",
        "turned",
        "mirrored-turned",
        "shifted",
    ],
)
def test_copies_are_caught_however_they_lie(change, masks):
    assert all(flagged(copies(change, masks)))


def test_copies_on_masks_of_other_fields_are_caught():
    other = [replace(s, masks=real()[-1 - i].masks) for i, s in enumerate(copies(noisy))]
    assert all(flagged(other))


def test_new_paintings_on_the_masks_of_real_fields_are_no_copies():
    assert not any(flagged(honest()))
    assert not of_honest().memorisation.copies
    assert max(n.texture for n in of_honest().memorisation.neighbours) < 0.35


def test_one_copy_among_honest_fields_is_named():
    planted = renamed(real()[5], noisy(real()[5].image[:, ::-1, ::-1]))
    planted = replace(planted, masks={"nucleus": real()[5].masks["nucleus"][::-1, ::-1].copy()})
    found = measured([*honest(), replace(planted, id="planted")], permutations=1, repeats=2)
    [copy] = found.memorisation.copies
    assert (copy.id, copy.alike) == ("planted", real()[5].id)
    assert any(
        "1 of 25 synthetic fields are copies of real ones, such as planted of pink5." in w
        for w in found.warnings
    )
    assert found.memorisation.closest(1) == [copy]
    turned = oriented(np.moveaxis(real()[5].image, 0, -1), copy.turned, copy.flipped)
    np.testing.assert_allclose(turned, np.moveaxis(real()[5].image[:, ::-1, ::-1], 0, -1))


def test_copies_without_masks_are_caught_and_the_same_mask_is_not_enough():
    bare = [replace(s, masks={}) for s in copies(noisy)]
    assert all(flagged(bare))
    assert not any(flagged([replace(s, masks={}) for s in honest()]))


def test_copies_are_looked_for_in_the_reference():
    others, seen = real()[:PER], real()[PER:]
    found = fidelity(list(others), [renamed(s) for s in seen], EMBEDDER, reference=list(seen), repeats=2)
    assert len(found.memorisation.copies) == len(seen)
    found = fidelity(list(others), [renamed(s) for s in seen], EMBEDDER, repeats=2)
    assert not found.memorisation.copies


def test_fields_nearer_than_real_ones_are_counted():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(3 * PER, 4))
    near = memorisation(list(real()), list(honest()), features, features + 1e-3)
    assert near.nearer == 1
    assert near.ratio < 0.01
    far = memorisation(list(real()), list(honest()), features, features + 50)
    assert far.nearer == 0
    assert far.ratio > 10


def test_flat_and_small_fields_are_no_copies():
    blank = Sample("blank", {"nucleus": np.ones((80, 96), np.int32)}, np.ones((3, 80, 96), np.float32))
    small = Sample("small", {}, real()[0].image[:, :30, :20].copy())
    assert flagged([blank, small])[0] is False
