"""Distances of sets of features: closed forms, independent implementations, properties."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm
from scipy.stats import wasserstein_distance, wasserstein_distance_nd

from msdm_kit.core.errors import MsdmError
from msdm_kit.plugins.fidelity.metrics import feature_metrics, measure
from msdm_kit.plugins.metrics.frechet import frechet_distance
from msdm_kit.plugins.metrics.kernel_distance import kernel_distance
from msdm_kit.plugins.metrics.neighbours import coverage, density, precision, radii, recall
from msdm_kit.plugins.metrics.transport import (
    ground_cost,
    line_distances,
    marginal_wasserstein,
    sliced_wasserstein,
    transport_cost,
    wasserstein,
)

METRICS = feature_metrics()


def cloud(n: int, d: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


# --- Wasserstein --------------------------------------------------------------------------------------------


def test_w1_of_a_shifted_cloud_is_the_length_of_the_shift():
    x = cloud(40).astype(np.float64)
    shift = np.array([3.0, 0.0, -4.0, 0.0])
    assert wasserstein(x, x + shift) == pytest.approx(5, rel=1e-12)
    assert marginal_wasserstein(x, x + shift) == pytest.approx(7 / 4, rel=1e-12)


def test_w1_of_one_point_to_many_is_the_mean_distance():
    x = cloud(9)
    assert wasserstein(x[:1], x) == pytest.approx(ground_cost(x[:1], x).mean())


@pytest.mark.parametrize(("n", "m"), [(6, 6), (7, 4), (3, 8)])
def test_w1_agrees_with_scipy(n, m):
    a, b = cloud(n, 3, 1), cloud(m, 3, 2)
    assert wasserstein(a, b) == pytest.approx(wasserstein_distance_nd(a, b), abs=1e-6)


def test_unequal_sizes_agree_with_repeated_rows_of_equal_size():
    a, b = cloud(10, 5, 1), cloud(15, 5, 2)
    repeated = wasserstein(np.repeat(a, 3, axis=0), np.repeat(b, 2, axis=0))
    assert wasserstein(a, b) == pytest.approx(repeated, rel=1e-9)


def test_the_assignment_and_the_network_simplex_agree():
    ot = pytest.importorskip("ot")
    cost = ground_cost(cloud(60, 8, 1), cloud(60, 8, 2))
    assert transport_cost(cost) == pytest.approx(ot.emd2([], [], cost), abs=1e-9)


@pytest.mark.parametrize(("n", "m"), [(11, 11), (12, 7), (1, 5)])
def test_line_distances_agree_with_scipy(n, m):
    a, b = cloud(n, 3, 1), cloud(m, 3, 2)
    wanted = [wasserstein_distance(a[:, i], b[:, i]) for i in range(3)]
    np.testing.assert_allclose(line_distances(a, b), wanted, rtol=1e-12, atol=1e-12)


def test_the_sliced_distance_of_a_shift_is_that_of_a_random_direction():
    x = cloud(30, 3).astype(np.float64)
    shift = np.array([2.0, 0.0, 0.0])
    found = sliced_wasserstein(x, x + shift, np.random.default_rng(0), projections=20_000)
    assert found == pytest.approx(2 / 2, rel=0.02)  # E|u_1| on the sphere in three dimensions is 1/2


def test_sliced_and_marginal_never_exceed_w1():
    a, b = cloud(25, 6, 1), cloud(25, 6, 2) * 2 + 1
    full = wasserstein(a, b)
    assert sliced_wasserstein(a, b, np.random.default_rng(0)) <= full
    assert marginal_wasserstein(a, b) <= full


def test_an_empty_set_is_refused():
    with pytest.raises(MsdmError, match="each set needs at least one"):
        wasserstein(cloud(3), cloud(3)[:0])


# --- FID ----------------------------------------------------------------------------------------------------


def whitened(n: int, d: int, seed: int = 0) -> np.ndarray:
    """Rows of mean exactly 0 and covariance exactly the identity."""
    x = np.random.default_rng(seed).normal(size=(n, d))
    x -= x.mean(axis=0)
    return np.linalg.qr(x)[0] * np.sqrt(n - 1)


@pytest.mark.parametrize("n", [40, 400])
def test_fid_of_gaussians_with_known_mean_and_covariance(n):
    a = whitened(n, 5, 1) * [1, 2, 3, 4, 5]
    b = whitened(n, 5, 2) * [2, 2, 1, 4, 6] + [1, 0, 0, 2, 0]
    # commuting covariances: |shift|^2 + sum (s1 - s2)^2
    assert frechet_distance(a, b) == pytest.approx(5 + 1 + 0 + 4 + 0 + 1, rel=1e-9)


def test_fid_agrees_with_the_matrix_square_root():
    a, b = cloud(50, 6, 1).astype(float), cloud(70, 6, 2).astype(float) @ cloud(6, 6, 3) + 0.5
    c1, c2 = np.cov(a.T), np.cov(b.T)
    gap = a.mean(axis=0) - b.mean(axis=0)
    wanted = gap @ gap + np.trace(c1 + c2 - 2 * sqrtm(c1 @ c2).real)
    assert frechet_distance(a, b) == pytest.approx(wanted, abs=1e-6)


def test_fid_with_fewer_rows_than_features_is_0_of_a_set_with_itself():
    a = cloud(10, 300)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, a + 1) == pytest.approx(300, rel=1e-5)


# --- KID ----------------------------------------------------------------------------------------------------


def brute_kid(x: np.ndarray, y: np.ndarray) -> float:
    def kernel(a, b):
        return (a @ b / len(a) + 1) ** 3

    n, m = len(x), len(y)
    xx = sum(kernel(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    yy = sum(kernel(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return xx + yy - 2 * sum(kernel(a, b) for a in x for b in y) / (n * m)


def test_kid_and_its_jackknife_agree_with_their_definitions():
    x, y = cloud(9, 3, 1).astype(float), cloud(7, 3, 2).astype(float) + 0.3
    found = kernel_distance(x, y)
    assert found.value == pytest.approx(brute_kid(x, y), abs=1e-9)
    variance = 0.0
    for left in (
        [brute_kid(np.delete(x, i, 0), y) for i in range(9)],
        [brute_kid(x, np.delete(y, i, 0)) for i in range(7)],
    ):
        variance += (len(left) - 1) * np.var(left)
    assert found.error == pytest.approx(np.sqrt(variance), rel=1e-9)
    assert found.high - found.value == pytest.approx(1.96 * found.error, rel=1e-3)


def test_kid_of_one_distribution_is_0_on_average_and_below_0_at_times():
    values = [kernel_distance(cloud(15, 4, 2 * i), cloud(15, 4, 2 * i + 1)).value for i in range(400)]
    assert min(values) < 0
    assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(400)


def kid_of_gaussians(d: int, shift2: float) -> float:
    """Of N(0, I) and N(b, I) with |b|^2 = shift2, from the moments of a scalar product of normal vectors."""

    def mean_kernel(product: float, a2: float, b2: float) -> float:
        second = product**2 + a2 + b2 + d
        third = product**3 + 3 * product * a2 + 3 * product * (b2 + d + 2)
        return third / d**3 + 3 * second / d**2 + 3 * product / d + 1

    return mean_kernel(0, 0, 0) + mean_kernel(shift2, shift2, shift2) - 2 * mean_kernel(0, 0, shift2)


def test_kid_is_unbiased_and_its_interval_covers_the_closed_form():
    truth = kid_of_gaussians(6, 6 * 0.5**2)
    rng = np.random.default_rng(5)
    found = [kernel_distance(rng.normal(size=(40, 6)), rng.normal(size=(40, 6)) + 0.5) for _ in range(400)]
    values = [f.value for f in found]
    assert np.mean(values) == pytest.approx(truth, abs=4 * np.std(values) / np.sqrt(400))
    assert 0.90 <= np.mean([f.low <= truth <= f.high for f in found]) <= 0.99


# --- neighbours ---------------------------------------------------------------------------------------------


def test_neighbours_by_hand():
    real = np.array([[0.0], [1.0], [2.0], [3.0], [4.0], [5.0], [6.0]])
    np.testing.assert_array_equal(radii(real, 2), [2, 1, 1, 1, 1, 1, 2])
    # with k = 5 the balls are 5, 4, 3, 3, 3, 4, 5
    synthetic = np.array([[-4.0], [3.0], [20.0], [21.0], [22.0], [23.0]])
    assert precision(real, synthetic) == pytest.approx(2 / 6)
    # -4 lies in the ball of 0 alone, 3 in all seven
    assert density(real, synthetic) == pytest.approx((1 + 7) / (5 * 6))
    assert coverage(real, synthetic) == 1


def test_recall_sees_missing_modes_and_precision_does_not():
    modes = np.concatenate([cloud(60, 2, 1), cloud(60, 2, 2) + 50])
    one = cloud(60, 2, 3)
    assert precision(modes, one) > 0.9
    assert recall(modes, one) < 0.6
    assert coverage(modes, one) < 0.6


def test_neighbours_agree_with_sklearn():
    neighbors = pytest.importorskip("sklearn.neighbors")
    x = cloud(50, 5)
    distances, _ = neighbors.NearestNeighbors(n_neighbors=6).fit(x).kneighbors(x)
    np.testing.assert_allclose(radii(x, 5), distances[:, 5], rtol=1e-6)


# --- all ----------------------------------------------------------------------------------------------------


def test_the_metrics_are_registered():
    assert {"wasserstein", "sliced_wasserstein", "marginal_wasserstein", "kid", "fid"} < METRICS.keys()
    assert {"precision", "recall", "density", "coverage"} < METRICS.keys()
    assert all(name == metric.name for name, metric in METRICS.items())


@pytest.mark.parametrize("name", sorted(METRICS))
def test_a_set_against_itself_is_perfect(name):
    x = cloud(60, 5)
    found = METRICS[name].compute(x, x, np.random.default_rng(0))
    if METRICS[name].better == "lower":
        assert found <= 1e-6  # kid is below 0 here: it leaves out a row with itself, but not with its copy
    else:
        assert found >= 1


@pytest.mark.parametrize("name", sorted(METRICS))
def test_a_shift_makes_every_metric_worse(name):
    x, y = cloud(80, 5, 1), cloud(80, 5, 2)
    metric = METRICS[name]
    values = [metric.compute(x, y + s, np.random.default_rng(0)) for s in (0, 2, 6)]
    ordered = values if metric.better == "lower" else values[::-1]
    assert ordered[0] < ordered[-1]
    assert ordered == sorted(ordered)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(sorted(METRICS)))
def test_the_order_of_rows_changes_nothing(seed, name):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(20, 3)), rng.normal(size=(14, 3))
    metric = METRICS[name]
    one = metric.compute(x, y, np.random.default_rng(0))
    other = metric.compute(rng.permutation(x), rng.permutation(y), np.random.default_rng(0))
    assert one == pytest.approx(other, rel=1e-9, abs=1e-9)


def test_too_few_rows_are_no_value_and_not_an_error():
    by_name = {r.metric.name: r for r in measure(cloud(2), cloud(1), list(METRICS.values()), repeats=2)}
    assert by_name["kid"].value is None
    assert by_name["fid"].value is None
    assert by_name["wasserstein"].value is not None
    assert by_name["wasserstein"].floor is None
    assert not by_name["wasserstein"].enough


def test_the_floor_is_that_of_real_halves_at_the_size_of_the_synthetic_sample():
    x, y = cloud(100, 4, 1), cloud(30, 4, 2) + 3
    [found] = measure(x, y, [METRICS["wasserstein"]], repeats=5)
    assert found.size == 30
    assert found.floor < 3 < found.synthetic
    [fewer] = measure(x, y[:6], [METRICS["wasserstein"]], repeats=5)
    assert fewer.floor > found.floor  # the finite size alone


def test_of_very_many_rows_some_are_drawn():
    seen = []

    def compute(a, b, rng):
        seen.append((len(a), len(b)))
        return 0.0

    metric = replace(METRICS["wasserstein"], most=10, compute=compute)
    measure(cloud(50), cloud(40), [metric], repeats=2)
    assert set(seen) == {(10, 10)}
