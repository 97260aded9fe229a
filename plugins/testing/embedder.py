"""What every embedder owes those who compare features, whoever wrote it."""

from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from ...core.sample import Image
from ..embedders.base import Embedder
from .case import Configured, built, devices
from .fields import painted
from .pickling import arrived


class EmbedderConformance(Configured):
    """The checks of an embedder. One that needs weights takes a small network of its kind in `settings`."""

    kind = "embedder"
    base: ClassVar[type] = Embedder

    def build(self, device: torch.device | None = None) -> Embedder:
        embedder: Embedder = self.load()(self.config(), device or torch.device("cpu"))
        return embedder

    @property
    def embedder(self) -> Embedder:
        return built(self)  # type: ignore[no-any-return]

    def tiles(self) -> list[Image]:
        """Three images: of the side that it reads, or, where any will do, of unequal sizes."""
        side = self.embedder.tile
        sizes = [(48, 64), (33, 41), (64, 64)] if side is None else [(side, side)] * 3
        return [painted(i, size, cells=i + 1)[0] for i, size in enumerate(sizes)]

    def test_features_are_a_finite_row_for_each_tile(self) -> None:
        tiles = self.tiles()
        before = [t.copy() for t in tiles]
        rows = self.embedder.embed(tiles)
        self.check(rows.dtype == np.float32, f"its features are {rows.dtype}; give float32")
        self.check(rows.ndim == 2 and len(rows) == len(tiles), f"3 tiles became {rows.shape}; give (3, D)")
        self.check(np.isfinite(rows).all(), "its features are not finite")
        self.check(all(map(np.array_equal, tiles, before)), "`embed` changes the tiles that it is given")
        apart = [not np.array_equal(rows[0], row) for row in rows[1:]]
        self.check(all(apart), "different images have the same features")

    def test_a_row_depends_on_its_own_tile_alone(self) -> None:
        tiles = self.tiles()
        rows = self.embedder.embed(tiles)
        for i, tile in enumerate(tiles):
            (alone,) = self.embedder.embed([tile])
            self._close(alone, rows[i], "a row changes with the other tiles of its batch")
        self._close(self.embedder.embed(tiles[::-1]), rows[::-1], "the order of the tiles changes their rows")

    def test_the_same_settings_give_the_same_features(self) -> None:
        twin, tiles = self.build(), self.tiles()
        self._close(twin.embed(tiles), self.embedder.embed(tiles), "a second one gives other features")
        self.check(twin.fingerprint == self.embedder.fingerprint, "a second one has another fingerprint")
        self.check(len(twin.fingerprint) >= 32, "its fingerprint is no hash; use hashlib.sha256")
        if self.embedder.is_metric:
            blank = np.ones_like(tiles[0])
            self.check(
                np.isfinite(twin.embed([blank])).all(), "a blank tile has features that are not finite"
            )

    def test_goes_to_a_process_where_it_says_so(self) -> None:
        if self.embedder.parallel:
            sent = arrived(self.embedder)
            tiles = self.tiles()
            self._close(sent.embed(tiles), self.embedder.embed(tiles), "gives other features in a process")

    def test_moves_to_a_device(self) -> None:
        wanted = self.embedder.embed(self.tiles())
        for device in devices()[1:]:
            found = self.build(device).embed(self.tiles())
            self.check(np.allclose(found, wanted, rtol=1e-2, atol=1e-2), f"gives other features on {device}")

    def _close(self, a: NDArray[Any], b: NDArray[Any], message: str) -> None:
        self.check(a.shape == b.shape and np.allclose(a, b, rtol=1e-4, atol=1e-5), message)
