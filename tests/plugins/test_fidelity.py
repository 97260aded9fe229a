"""Fidelity of a synthetic set: groups, floors, adherence, on sets whose answers are known."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from msdm_kit.core.errors import MsdmError
from msdm_kit.plugins.embedders.random_network import Random
from msdm_kit.plugins.fidelity.fidelity import fidelity
from msdm_kit.plugins.fidelity.files import save_fidelity, summary_of
from msdm_kit.plugins.fidelity.groups import GroupDistances, floor
from msdm_kit.plugins.fidelity.metrics import feature_metrics
from msdm_kit.plugins.fidelity.projection import check_method, project

from ..painted import EMBEDDER, PER, STAINS, honest, measured, of_honest, of_itself, real, renamed

# --- groups ----------------------------------------------------------------------------------------------


def test_real_against_itself_is_perfect():
    found = of_itself()
    np.testing.assert_allclose(np.diag(found.matrix.values), 0, atol=1e-9)
    values = {r.metric.name: r.value for r in found.metrics}
    assert values["wasserstein"] == values["marginal_wasserstein"] == values["sliced_wasserstein"] == 0
    assert values["fid"] == pytest.approx(0, abs=1e-6)
    assert values["kid"] <= 0
    assert values["precision"] == values["recall"] == values["coverage"] == 1
    assert len(found.memorisation.copies) == len(real())
    assert any("are copies of real ones" in line for line in found.warnings)
    assert found.adherence.colour_other[0] > 0


def test_groups_that_match_lie_nearest_and_the_test_says_so():
    found = of_honest()
    assert found.matrix.real == found.matrix.synthetic == ("brown", "pink", "white")
    assert found.matrix.real_sizes == (PER,) * 3
    assert (found.matrix.values.argmin(axis=1) == [0, 1, 2]).all()
    assert found.matching.mean == pytest.approx(np.diag(found.matrix.values).mean())
    assert found.matching.other_mean > found.matching.mean
    assert found.matching.p == 1 / 100
    assert found.matching.permutations == 99


def test_wrong_labels_lose_the_effect():
    """A third of each stain under every label: matching and other groups are alike, and p is not small."""
    stains = list(STAINS)
    mixed = [replace(s, metadata={**s.metadata, "assay": stains[i % 3]}) for i, s in enumerate(honest())]
    found, right = measured(mixed).matching, of_honest().matching
    assert abs(found.other_mean - found.mean) < 0.1 * (right.other_mean - right.mean)
    assert found.p > 0.05


def test_p_is_uniform_where_labels_say_nothing():
    """Of many sets without any effect, about a fifth has a p of at most 0.2."""
    rng = np.random.default_rng(1)
    low = 0
    for i in range(60):
        a, b = rng.normal(size=(12, 3)), rng.normal(size=(12, 3))
        labels = ["u", "v"] * 6
        groups = GroupDistances(a, b, labels, labels, seed=i)
        low += groups.matching(groups.matrix(), 39).p <= 0.2
    assert 4 <= low <= 22


def test_by_hand():
    a, b = np.array([[0.0], [0.0], [10.0], [10.0]]), np.array([[1.0], [1.0], [13.0]])
    groups = GroupDistances(a, b, ["u", "u", "v", "v"], ["u", "u", "v"])
    matrix = groups.matrix()
    np.testing.assert_allclose(matrix.values, [[1, 13], [9, 3]])
    match = groups.matching(matrix)
    assert (match.mean, match.other_mean) == (2, 11)
    assert match.deviation == pytest.approx(np.sqrt(2))
    # of the three ways to say which synthetic field is v, the right one alone has so large a difference
    assert match.p == pytest.approx(1 / 3, abs=0.06)


def test_a_group_of_one_set_alone_matches_nothing():
    found = measured([s for s in honest() if s.metadata["assay"] != "white"])
    assert found.matrix.real == ("brown", "pink", "white")
    assert found.matrix.synthetic == ("brown", "pink")
    assert len(found.matrix.matching) == 2
    assert any("match nothing: white" in line for line in found.warnings)


def test_without_groups_there_is_one_and_no_test():
    found = measured(honest(), group=())
    assert found.matrix.values.shape == (1, 1)
    assert found.matching.p is None
    assert np.isnan(found.matching.other_mean)


def test_several_columns_group_together():
    found = measured(honest(), group=("assay", "site"))
    assert found.matrix.real[0] == "brown / s0"
    assert any("fewer than 10 real fields" in line and "brown / s0 (4)" in line for line in found.warnings)


def test_the_floor_falls_with_size_and_has_the_size_of_both_samples():
    rng = np.random.default_rng(0)
    metric = feature_metrics()["wasserstein"]
    a = rng.normal(size=(200, 4))
    sizes = [floor(a[:n], None, metric, 6, np.random.default_rng(1)) for n in (8, 40, 200)]
    assert [s[0] for s in sizes] == [4, 20, 100]
    assert sizes[0][1] > sizes[1][1] > sizes[2][1] > 0
    size, real_floor, _, synthetic, _ = floor(
        a, rng.normal(size=(200, 4)), metric, 10, np.random.default_rng(1)
    )
    assert size == 100
    assert synthetic == pytest.approx(real_floor, rel=0.05)  # new samples of the same distribution
    assert floor(a[:3], None, metric, 4, rng) is None


def test_an_honest_painter_is_near_the_floor():
    for f in of_honest().floors:
        assert f.size == PER // 2
        assert f.ratio < 1.6


def test_colour_shifts_move_the_distance_monotonically():
    totals = []
    for shift in (0.0, 0.05, 0.1, 0.2, 0.4):
        moved = [renamed(s, s.image + np.array([shift, 0, -shift])[:, None, None]) for s in real()]
        found = measured(moved, permutations=1, repeats=2)
        totals.append(found.matching.mean)
    assert totals[0] == pytest.approx(0, abs=1e-9)
    assert all(far > 1.1 * near for near, far in itertools.pairwise(totals[1:]))
    assert totals[1] > 0.5


def test_the_order_of_fields_changes_nothing():
    rng = np.random.default_rng(3)
    mixed = fidelity(
        [real()[i] for i in rng.permutation(len(real()))],
        [honest()[i] for i in rng.permutation(len(honest()))],
        EMBEDDER, group=("assay",), repeats=4, permutations=99,
    )  # fmt: skip
    assert summary_of(mixed) == summary_of(of_honest())


@pytest.mark.parametrize("distance", ["sliced_wasserstein", "marginal_wasserstein", "kid", "fid"])
def test_other_distances_fill_the_matrix(distance):
    found = measured(honest(), distance=distance, permutations=19)
    assert found.matrix.distance == distance
    assert (found.matrix.values.argmin(axis=1) == [0, 1, 2]).all()
    assert found.matching.p == pytest.approx(1 / 20)


def test_features_are_standardised_by_the_real_set():
    found = of_honest()
    np.testing.assert_allclose(found.real.features.mean(axis=0), 0, atol=1e-3)
    deviations = found.real.features.std(axis=0)
    # a feature that no real field varies in keeps its unit
    assert ((np.abs(deviations - 1) < 1e-3) | (deviations < 1e-3)).all()


def test_few_fields_are_warned_about():
    lines = " ".join(of_honest().warnings)
    assert "Fréchet distance (FID): needs at least 2,000 fields in each set, and here are 24 and 24." in lines


# --- adherence ---------------------------------------------------------------------------------------------


def test_adherence_stands_beside_that_of_real_fields_and_of_chance():
    found = of_honest().adherence
    assert found.kind == "nucleus"
    assert found.synthetic[0] > 0.8
    assert found.real[0] == pytest.approx(found.synthetic[0], abs=0.05)
    assert found.turned[0] < 0.5
    assert found.colours == len(honest())
    assert found.colour[0] > 0


def test_colour_error_is_measured_against_the_source_of_the_colours():
    exact = [renamed(s, source_appearance=s.id) for s in real()]
    assert measured(exact, repeats=2, permutations=1).adherence.colour[0] == pytest.approx(0, abs=1e-4)
    shifted = [renamed(s, s.image - 10 / 127.5, source_appearance=s.id) for s in real()]
    assert measured(shifted, repeats=2, permutations=1).adherence.colour[0] == pytest.approx(10, abs=0.2)
    given = [renamed(s, source_appearance="given", colour_error_levels="7.5") for s in real()]
    assert measured(given, repeats=2, permutations=1).adherence.colour == (7.5, 0)


def test_fields_without_masks_have_no_adherence():
    bare = [replace(s, masks={}) for s in honest()]
    assert measured(bare, repeats=2, permutations=1).adherence is None


# --- mistakes, files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"group": ("asay",)}, r"the real set has no column 'asay'.* did you mean 'assay'"),
        ({"distance": "wassertein"}, "no distance 'wassertein'; did you mean 'wasserstein'"),
        ({"distance": "precision"}, "no distance 'precision'"),
    ],
)
def test_mistakes_are_one_line(settings, says):
    with pytest.raises(MsdmError, match=says):
        measured(honest(), **settings)


def test_an_empty_set_is_refused():
    with pytest.raises(MsdmError, match="the synthetic set has no fields"):
        fidelity(list(real()), [], EMBEDDER)


def test_a_random_network_is_refused_unless_asked_for():
    random = Random(Random.Config(), torch.device("cpu"))
    with pytest.raises(MsdmError, match="distances mean nothing"):
        fidelity(list(real()), list(honest()), random)
    found = fidelity(list(real()), list(honest()), random, allow_random=True, repeats=2)
    assert "no distance here means anything" in found.warnings[0]


def test_two_fields_are_measured_with_warnings():
    found = fidelity(list(real()[:1]), list(honest()[:1]), EMBEDDER)
    assert found.memorisation is None
    assert found.floors == []
    assert any("no real-against-real floor" in line for line in found.warnings)
    assert {r.metric.name: r.value for r in found.metrics}["kid"] is None


def test_files_hold_what_was_measured(tmp_path):
    found = of_honest()
    save_fidelity(found, tmp_path / "out", reference=real(), synthetic=honest(), projection="pca")
    names = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert names == ["fidelity.json", "fields.csv", "matrix.csv", "metrics.csv", "report.html"]
    kept = json.loads((tmp_path / "out/fidelity.json").read_text(encoding="utf-8"))
    assert kept["matching"]["p"] == found.matching.p
    assert kept["matrix"]["values"] == found.matrix.values.tolist()
    rows = (tmp_path / "out/fields.csv").read_text(encoding="utf-8").splitlines()
    assert len(rows) == 1 + 3 * PER
    assert rows[0].startswith(
        "id,group,nearest,distance,alike,texture,flipped,quarter_turns,copy,mask_adherence"
    )
    page = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    assert "Distances of groups" in page
    assert "syn-pink0" in page
    with pytest.raises(MsdmError, match="is not an empty folder"):
        save_fidelity(found, tmp_path / "out", reference=real(), synthetic=honest())


# --- projection --------------------------------------------------------------------------------------------


def test_principal_components_of_a_line():
    x = np.arange(10.0)[:, None] * np.array([[3.0, 4.0]])
    found = project(x, x[:2], "pca")
    np.testing.assert_allclose(np.diff(found.real[:, 0]), 5)
    np.testing.assert_allclose(found.real[:, 1], 0, atol=1e-9)
    np.testing.assert_allclose(found.synthetic, found.real[:2], atol=1e-9)
    assert "100% of their variance" in found.note


def test_one_feature_and_one_field_have_a_plane_too():
    assert project(np.ones((1, 1)), np.ones((2, 1)), "pca").synthetic.shape == (2, 2)


def test_umap_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setattr("msdm_kit.plugins.fidelity.projection._has_umap", lambda: False)
    with pytest.raises(MsdmError, match=r"pip install 'msdm-kit\[umap\]'"):
        check_method("umap")
    assert project(np.eye(20), np.eye(20)).method == "PCA"
    with pytest.raises(MsdmError, match="did you mean 'umap'"):
        check_method("umaps")
