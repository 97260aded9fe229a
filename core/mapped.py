"""Arrays that live in a file, and elementwise arithmetic on them that holds one band of rows in memory."""

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor

from .errors import MsdmError

BAND = 2**20
"""Elements of a band, about."""
_PIECE = 2**18
"""Numbers of a piece of noise; a multiple of 16, as torch draws normal numbers 16 at a time."""
_ELEMENTWISE = frozenset(
    """
    abs add addcdiv addcmul clamp clip clone cos cosh div exp expm1 fmax fmin lerp log log1p maximum
    minimum mul multiply neg nan_to_num pow reciprocal round rsqrt sigmoid sign sin sinh sqrt square sub
    subtract tan tanh true_divide truediv where radd rsub rmul rdiv rtruediv rpow
    """.split()  # noqa: SIM905
)


def scratch_array(shape: tuple[int, ...], dtype: DTypeLike, folder: Path | None = None) -> NDArray[Any]:
    """An array of zeros in a file without a name: it is gone when nobody holds the array, however we end.

    Parameters
    ----------
    shape : tuple of int
    dtype : dtype
    folder : Path or None
        Where the file is; it must be there. None is the system's folder for temporary files.

    Raises
    ------
    MsdmError
        The space on the disc does not do: it is taken at once, as a full disc would kill the process later.
    """
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    try:
        with tempfile.TemporaryFile(dir=folder) as handle:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(handle.fileno(), 0, max(size, 1))
            else:
                handle.truncate(max(size, 1))
            return np.memmap(handle, dtype=dtype, mode="r+", shape=shape)
    except OSError as error:
        raise MsdmError(
            f"cannot make a scratch file of {size} bytes in {folder or tempfile.gettempdir()}: "
            f"{error.strerror}; free space there, or write to another disc"
        ) from None


class MappedTensor:
    """A float32 tensor (1, C, H, W) in a file.

    Arithmetic with numbers, with other such tensors and with tensors that broadcast to every band goes band
    by band into a new file, and gives what it gives on a tensor in memory, bit for bit. Solvers need no more:
    all of theirs is elementwise.

    Parameters
    ----------
    shape : (int, int, int, int)
        The first is 1.
    folder : Path or None
        As `scratch_array` takes it.
    """

    def __init__(self, shape: tuple[int, int, int, int], folder: Path | None = None) -> None:
        self.shape = torch.Size(shape)
        self.folder = folder
        self._tensor = torch.from_numpy(scratch_array(shape, np.float32, folder))

    @classmethod
    def of(cls, tensor: Tensor, folder: Path | None = None) -> "MappedTensor":
        """A copy of a tensor (1, C, H, W)."""
        copy = cls((1, *tensor.shape[1:]), folder)
        for rows in copy.bands():
            copy.at(rows).copy_(tensor[..., rows, :])
        return copy

    def __len__(self) -> int:
        return self.shape[0]

    def at(self, rows: slice, columns: slice = slice(None)) -> Tensor:
        """A view of a rectangle (1, C, h, w); what is written to it is written to the file."""
        return self._tensor[..., rows, columns]

    def bands(self) -> Iterator[slice]:
        """Rows in groups of about `BAND` elements."""
        _, channels, height, width = self.shape
        rows = max(1, BAND // (channels * width))
        for top in range(0, height, rows):
            yield slice(top, min(top + rows, height))

    def fill_normal(self, generator: torch.Generator) -> "MappedTensor":
        """Fill with the numbers that ``torch.randn(self.shape, generator=generator)`` draws."""
        flat = self._tensor.view(-1)
        start = 0
        while start < len(flat):
            # the last piece is at least 16 long: shorter ones are drawn in another way
            left = len(flat) - start
            count = _PIECE if left >= _PIECE + 16 else left
            flat[start : start + count] = torch.randn(count, generator=generator)
            start += count
        return self

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> "MappedTensor":
        name = getattr(func, "__name__", str(func)).strip("_")
        if name not in _ELEMENTWISE:
            raise MsdmError(
                f"a solver calls {name}, which is not elementwise: it cannot sample by windows; use another "
                f"solver, or sample the field whole"
            )
        return _one(func, *args, **(kwargs or {}))

    def __getattr__(self, name: str) -> Callable[..., "MappedTensor"]:
        if name not in _ELEMENTWISE:
            raise AttributeError(f"{type(self).__name__} has no {name!r}, which is not elementwise")
        return lambda *args, **kwargs: _one(getattr(Tensor, name), self, *args, **kwargs)

    def __add__(self, other: Any) -> "MappedTensor":
        return _one(torch.add, self, other)

    def __sub__(self, other: Any) -> "MappedTensor":
        return _one(torch.sub, self, other)

    def __mul__(self, other: Any) -> "MappedTensor":
        return _one(torch.mul, self, other)

    def __truediv__(self, other: Any) -> "MappedTensor":
        return _one(torch.div, self, other)

    def __radd__(self, other: Any) -> "MappedTensor":
        return _one(lambda a, b: b + a, self, other)

    def __rsub__(self, other: Any) -> "MappedTensor":
        return _one(lambda a, b: b - a, self, other)

    def __rmul__(self, other: Any) -> "MappedTensor":
        return _one(lambda a, b: b * a, self, other)

    def __rtruediv__(self, other: Any) -> "MappedTensor":
        return _one(lambda a, b: b / a, self, other)

    def __neg__(self) -> "MappedTensor":
        return _one(torch.neg, self)

    def __pow__(self, other: Any) -> "MappedTensor":
        return _one(torch.pow, self, other)


def _one(function: Callable[..., Any], *args: Any, **kwargs: Any) -> MappedTensor:
    """`each_band` of a function with one result, a map."""
    result = each_band(function, *args, **kwargs)
    assert isinstance(result, MappedTensor)
    return result


def each_band(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """A function of tensors, band by band.

    Parameters
    ----------
    function : callable
        Elementwise; of tensors, and returns one, or a tuple of them.
    *args, **kwargs
        For `function`. The first `MappedTensor` says how many bands there are; of each, the function gets the
        band. What else is a tensor is handed on as it is.

    Returns
    -------
    MappedTensor, or tuple
        What is no map in the function's result (one number for all pixels, say) is that of the last band.
    """
    first = next(a for a in (*args, *kwargs.values()) if isinstance(a, MappedTensor))

    def pick(value: Any, rows: slice) -> Any:
        return value.at(rows) if isinstance(value, MappedTensor) else value

    results: list[Any] = []
    several = False
    for rows in first.bands():
        out = function(*(pick(a, rows) for a in args), **{k: pick(v, rows) for k, v in kwargs.items()})
        several = isinstance(out, tuple)
        outs = out if isinstance(out, tuple) else (out,)
        if not results:
            results = [
                MappedTensor((1, o.shape[1], *first.shape[2:]), first.folder)
                if _is_map(o, rows, first)
                else o
                for o in outs
            ]
        for k, (result, value) in enumerate(zip(results, outs, strict=True)):
            if isinstance(result, MappedTensor):
                result.at(rows).copy_(value)
            else:
                results[k] = value
    return tuple(results) if several else results[0]


def _is_map(value: Tensor, rows: slice, like: MappedTensor) -> bool:
    return value.ndim == 4 and value.shape[2:] == (rows.stop - rows.start, like.shape[3])
