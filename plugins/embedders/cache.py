"""Embeddings that were computed before, on disc."""

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...core.errors import MsdmError
from ...core.files import write_bytes

Vector = NDArray[np.float32]

CHUNK = 64
"""Vectors of a file: what an interruption loses at most."""
LAYOUT = "1"
"""Changes where tiling or averaging does: what was kept before is then not found."""


class EmbeddingCache:
    """Vectors of one embedder by the hash of what was embedded; a context manager.

    Parameters
    ----------
    folder : Path or None
        None keeps vectors in memory alone. Files lie in a folder of it that is named by the embedder's
        fingerprint, as safetensors; several processes may use it at once. Nothing in it is ever changed; it
        may be deleted at any time.
    fingerprint : str
        The embedder's.

    Attributes
    ----------
    problem : str or None
        Why nothing can be kept, in one line.
    """

    def __init__(self, folder: Path | None, fingerprint: str) -> None:
        name = hashlib.sha256(f"{LAYOUT} {fingerprint}".encode()).hexdigest()[:32]
        self.folder = None if folder is None else folder / name
        self.problem: str | None = None
        self._files: dict[str, Path] = {}
        self._new: dict[str, Vector] = {}
        if self.folder is not None and self.folder.is_dir():
            for path in sorted(self.folder.glob("*.safetensors")):
                self._files |= dict.fromkeys(_keys(path), path)

    def __enter__(self) -> "EmbeddingCache":
        return self

    def __exit__(self, *exception: object) -> None:
        self.flush()

    @property
    def keys(self) -> frozenset[str]:
        """What `get` has."""
        return frozenset(self._files) | frozenset(self._new)

    def get(self, key: str) -> Vector | None:
        """A vector (D,) float32; None where it is not kept, or its file has become unreadable."""
        if key in self._new:
            return self._new[key]
        path = self._files.get(key)
        if path is None:
            return None
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(path), framework="np") as file:
                found = np.asarray(file.get_tensor(key))
        except (SafetensorError, OSError):
            del self._files[key]
            return None
        return found if found.ndim == 1 and found.dtype == np.float32 and np.isfinite(found).all() else None

    def add(self, key: str, vector: Vector) -> None:
        """Keep a vector."""
        self._new[key] = vector
        if len(self._new) >= CHUNK:
            self.flush()

    def flush(self) -> None:
        """Write what was added. A folder that cannot be written is a `problem`, not the end of the work."""
        if not self._new or self.folder is None or self.problem is not None:
            return
        from safetensors.numpy import save

        name = hashlib.sha256("\n".join(sorted(self._new)).encode()).hexdigest()[:32]
        path = self.folder / f"{name}.safetensors"
        try:
            write_bytes(path, save({key: np.ascontiguousarray(v) for key, v in self._new.items()}))
        except MsdmError as error:
            self.problem = f"Embeddings are not kept for the next time: {error}."
            return
        self._files |= dict.fromkeys(self._new, path)
        self._new = {}


def _keys(path: Path) -> list[str]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="np") as file:
            return list(file.keys())
    except (SafetensorError, OSError):  # cut off by a full disc: what it held is computed again
        return []
