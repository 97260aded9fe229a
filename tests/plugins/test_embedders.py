"""Embedders, tiling, and the cache of features."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from msdm_kit.core.errors import MsdmError
from msdm_kit.core.sample import Sample
from msdm_kit.plugins.choice import choose, read_choice
from msdm_kit.plugins.embedders.base import Embedder
from msdm_kit.plugins.embedders.cache import EmbeddingCache
from msdm_kit.plugins.embedders.descriptors import NAMES, describe
from msdm_kit.plugins.embedders.fields import embed_fields
from msdm_kit.plugins.embedders.tiling import pixel_size_of, resampled, tiles
from msdm_kit.plugins.host import get_host

CPU = torch.device("cpu")


def make(text: str) -> Embedder:
    _, cls, config = choose("embedder", read_choice("embedder", text), "test")
    return cls(config, CPU)


def picture(seed: int = 0, size: tuple[int, int] = (48, 64)) -> np.ndarray:
    """A field on a grid of 8 bits: dark spots on a bright ground."""
    rng = np.random.default_rng(seed)
    image = 0.6 + 0.1 * rng.normal(size=(3, *size))
    for _ in range(6):
        y, x = rng.integers(0, size[0] - 8), rng.integers(0, size[1] - 8)
        image[:, y : y + 8, x : x + 8] += np.array([-1.0, -1.2, -0.6])[:, None, None]
    levels = np.rint((image.clip(-1, 1) + 1) * 127.5)
    return (levels / 127.5 - 1).astype(np.float32)


def field(seed: int = 0, size: tuple[int, int] = (48, 64), **metadata: str) -> Sample:
    return Sample(f"f{seed}", {}, picture(seed, size), metadata)


class Mean(Embedder):
    """The mean colour, and the tiles that it was given."""

    tile = 16
    pixel_size = 0.5

    def __init__(self):
        super().__init__(None, CPU)
        self.batches = []

    @property
    def fingerprint(self):
        return "mean"

    def embed(self, tiles):
        self.batches.append([t.shape for t in tiles])
        return np.stack([t.mean(axis=(1, 2)) for t in tiles]).astype(np.float32)


# --- tiling -------------------------------------------------------------------------------------------------


@given(st.integers(1, 90), st.integers(1, 90), st.integers(4, 40))
def test_tiles_cover_a_field_and_are_as_few_as_can_be(height, width, side):
    image = np.stack([np.arange(height * width, dtype=np.float32).reshape(height, width)] * 3)
    found = tiles(image, side)
    assert all(t.shape == (3, side, side) for t in found)
    assert len(found) == -(-height // side) * -(-width // side)
    seen = np.unique(np.concatenate([t[0].ravel() for t in found]))
    np.testing.assert_array_equal(seen, np.arange(height * width))


def test_a_small_field_is_mirrored_and_not_scaled():
    image = np.stack([np.array([[1.0, 2.0, 3.0, 4.0]], np.float32)] * 3)
    [tile] = tiles(image, 6)
    np.testing.assert_array_equal(tile[0, 0], [1, 1, 2, 3, 4, 4])


def test_an_embedder_without_a_side_takes_the_field_whole():
    image = picture()
    [tile] = tiles(image, None)
    assert tile is image


def test_resampling_changes_the_size_by_the_factor_and_keeps_the_range():
    image = picture(size=(40, 60))
    assert resampled(image, 1.0) is image
    half = resampled(image, 0.5)
    assert half.shape == (3, 20, 30)
    assert np.abs(half).max() <= 1
    assert half.mean() == pytest.approx(image.mean(), abs=0.01)
    with pytest.raises(MsdmError, match=r"40 x 60 would have .* check its pixel size"):
        resampled(image, 10_000)


def test_fields_are_brought_to_the_pixel_size_of_the_embedder():
    embedder = Mean()
    embed_fields(embedder, [field(size=(32, 32), pixel_size_um="0.25")])
    assert embedder.batches == [[(3, 16, 16)]]  # 32 pixels of 0.25 are 16 of 0.5
    embedder = Mean()
    embed_fields(embedder, [field(size=(32, 32))])
    assert embedder.batches == [[(3, 16, 16)] * 4]


def test_a_pixel_size_that_is_none_is_refused():
    assert pixel_size_of({"id": "a"}) is None
    assert pixel_size_of({"id": "a", "pixel_size_um": " "}) is None
    with pytest.raises(MsdmError, match=r"field 'a': pixel_size_um is 'x'"):
        pixel_size_of({"id": "a", "pixel_size_um": "x"})


# --- fields -------------------------------------------------------------------------------------------------


def test_a_field_is_one_row_the_mean_of_its_tiles():
    image = picture(size=(32, 32))
    [row] = embed_fields(Mean(), [Sample("a", {}, image)])
    np.testing.assert_allclose(row, image.mean(axis=(1, 2)), atol=1e-6)


@pytest.mark.parametrize("batch", [1, 3, 100])
def test_rows_do_not_depend_on_the_batch(batch):
    fields = [field(i, (20 + i, 40)) for i in range(4)]
    wanted = np.concatenate([embed_fields(Mean(), [f]) for f in fields])
    np.testing.assert_array_equal(embed_fields(Mean(), fields, batch=batch), wanted)


def test_batches_hold_as_many_tiles_as_are_asked_for():
    embedder = Mean()
    embed_fields(embedder, [field(i, (32, 32)) for i in range(3)], batch=5)
    assert [len(b) for b in embedder.batches] == [5, 3, 4]


def test_progress_counts_fields():
    seen = []
    embed_fields(
        Mean(), [field(i) for i in range(3)], on_progress=lambda done, total: seen.append((done, total))
    )
    assert seen[0] == (0, 3)
    assert seen[-1] == (3, 3)


def test_a_field_without_an_image_is_named():
    with pytest.raises(MsdmError, match="field 'a' has no image"):
        embed_fields(Mean(), [Sample("a", {"nucleus": np.zeros((4, 4), np.int32)})])
    with pytest.raises(MsdmError, match="no fields to embed"):
        embed_fields(Mean(), [])


def test_features_that_are_not_finite_are_refused():
    class Broken(Mean):
        def embed(self, tiles):
            return np.full((len(tiles), 2), np.nan, np.float32)

    with pytest.raises(MsdmError, match="Broken returned"):
        embed_fields(Broken(), [field()])


def test_processes_give_the_same_rows():
    fields = [field(i) for i in range(3)]
    embedder = make("descriptors")
    one = embed_fields(embedder, fields)
    np.testing.assert_array_equal(embed_fields(embedder, fields, workers=2), one)


# --- cache --------------------------------------------------------------------------------------------------


def test_what_was_embedded_is_not_embedded_again(tmp_path):
    fields, first, second = [field(i) for i in range(3)], Mean(), Mean()
    with EmbeddingCache(tmp_path, "mean") as cache:
        wanted = embed_fields(first, fields, cache=cache)
    with EmbeddingCache(tmp_path, "mean") as cache:
        again = embed_fields(second, fields[::-1], cache=cache)
    np.testing.assert_array_equal(again, wanted[::-1])
    assert second.batches == []


def test_a_changed_pixel_scale_or_embedder_is_embedded_anew(tmp_path):
    image = picture()
    for sample, fingerprint, expected in (
        (Sample("a", {}, image), "mean", True),
        (Sample("other id", {}, image), "mean", False),
        (Sample("a", {}, image, {"pixel_size_um": "0.25"}), "mean", True),
        (Sample("a", {}, picture(1)), "mean", True),
        (Sample("a", {}, image), "other", True),
    ):
        embedder = Mean()
        embed_fields(embedder, [sample], cache=EmbeddingCache(tmp_path, fingerprint))
        assert bool(embedder.batches) is expected


def test_a_damaged_file_of_the_cache_is_as_if_it_were_not_there(tmp_path):
    wanted = embed_fields(Mean(), [field()], cache=EmbeddingCache(tmp_path, "mean"))
    [path] = tmp_path.rglob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-3])
    embedder = Mean()
    np.testing.assert_array_equal(
        embed_fields(embedder, [field()], cache=EmbeddingCache(tmp_path, "mean")), wanted
    )
    assert embedder.batches
    assert not list(tmp_path.rglob("*.tmp"))


def test_an_interruption_keeps_what_was_done(tmp_path):
    class Stops(Mean):
        def embed(self, tiles):
            if len(self.batches) == 2:
                raise KeyboardInterrupt
            return super().embed(tiles)

    fields = [field(i, (16, 16)) for i in range(4)]
    with pytest.raises(KeyboardInterrupt):
        embed_fields(Stops(), fields, cache=EmbeddingCache(tmp_path, "mean"), batch=1)
    assert len(EmbeddingCache(tmp_path, "mean").keys) == 2


def test_a_cache_that_cannot_be_written_is_a_note_and_not_the_end(tmp_path):
    (tmp_path / "file").write_text("")
    cache = EmbeddingCache(tmp_path / "file", "mean")
    rows = embed_fields(Mean(), [field(0), field(1)], cache=cache)
    assert len(rows) == 2
    assert "not kept" in cache.problem


# --- descriptors --------------------------------------------------------------------------------------------


def named(image: np.ndarray) -> dict[str, float]:
    return dict(zip(NAMES, describe(image), strict=True))


def test_every_descriptor_has_a_name():
    assert len(NAMES) == 62 == len(set(NAMES))
    assert describe(picture()).shape == (62,)


def test_descriptors_of_a_flat_field():
    flat = named(np.full((3, 32, 32), 0.5, np.float32))
    assert flat["haematoxylin deviation"] == pytest.approx(0, abs=1e-9)
    assert flat["haematoxylin skewness"] == 0
    assert flat["GLCM energy at 1"] == pytest.approx(1)
    assert flat["GLCM contrast at 4"] == 0
    assert flat["stained objects: area fraction"] == 0


def test_descriptors_of_known_objects():
    image = np.ones((3, 100, 100), np.float32)
    for y, x, w in ((10, 10, 10), (50, 20, 20)):
        image[:, y : y + 10, x : x + w] = np.array([-0.2, -0.7, 0.1])[:, None, None]
    found = named(image)
    assert found["stained objects: per megapixel, log(1 + n)"] == pytest.approx(np.log1p(200))
    assert found["stained objects: area fraction"] == pytest.approx(0.03)
    assert found["stained objects: log area, mean"] == pytest.approx((np.log(100) + np.log(200)) / 2)
    assert found["stained objects: extent, mean"] == pytest.approx(1)


def test_descriptors_see_stain_and_texture_and_not_flips():
    image = picture()
    base = describe(image)
    np.testing.assert_allclose(describe(np.ascontiguousarray(image[:, :, ::-1])), base, rtol=1e-6, atol=1e-6)
    darker = named(np.clip(image - 0.2, -1, 1))
    assert darker["haematoxylin mean"] != pytest.approx(named(image)["haematoxylin mean"], rel=0.05)


def test_the_fingerprint_follows_the_settings():
    assert make("descriptors").fingerprint == make("descriptors").fingerprint
    assert make("descriptors").fingerprint != make("descriptors:min_area=30").fingerprint


# --- random -------------------------------------------------------------------------------------------------


def test_the_random_network_is_seeded_and_says_it_is_no_metric():
    a, b, other = make("random"), make("random"), make("random:seed=1")
    rows = a.embed([picture(0), picture(1, (30, 20))])
    np.testing.assert_array_equal(rows, b.embed([picture(0), picture(1, (30, 20))]))
    assert np.abs(rows - other.embed([picture(0), picture(1, (30, 20))])).max() > 0
    assert a.fingerprint == b.fingerprint != other.fingerprint
    assert not a.is_metric
    assert all(
        get_host().load("embedder", n).is_metric for n in get_host().names("embedder") if n != "random"
    )
