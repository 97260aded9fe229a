"""What the windows of a field see of its conditions: what the whole field shows, cut, without ever having it.

An instance that a window's border cuts must look to the network as it does in the field: its horizontal map,
say, runs over the whole instance. A window's map is therefore observed on a cut-out that holds every instance
which the window touches, and is cut from that.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import guard
from .augment import pad_to_multiple
from .conditioning import Observation, Signal
from .denoiser import Denoiser, to_device
from .sample import Appearance, ColourStatistics, Labels, Sample
from .windows import Window

Box = tuple[int, int, int, int]
"""Top, left, bottom, right; the last two are not part of it."""
_PIXELS = 2**20
"""Of a band that is searched for instances."""


class WindowConditions:
    """The conditions of a field, window by window.

    Tokens and vectors are those of the whole field, the same in every window. A map whose conditioner says
    how far it looks (`Conditioner.reach`) is observed window by window; any other one once, on the whole
    field, and kept.

    Parameters
    ----------
    denoiser : Denoiser
    field : Sample
        Its masks may be memory-mapped; they are read window by window.
    device : torch.device
    """

    @torch.inference_mode()
    def __init__(self, denoiser: Denoiser, field: Sample, device: torch.device) -> None:
        self.denoiser = denoiser
        self.device = device
        self.field = replace(field, look=_measured(field.appearance))
        multiple = denoiser.multiple
        height, width = field.size
        self.size = (height + -height % multiple, width + -width % multiple)
        self._local = [name for name, c in denoiser.by_name.items() if c.local]
        self._reach = max((denoiser.conditioner(name).reach or 0 for name in self._local), default=0)
        self._boxes = {kind: boxes(labels) for kind, labels in field.masks.items()} if self._local else {}
        whole = [name for name in denoiser.names if name not in self._local]
        self._whole: dict[str, Signal] = {}
        if whole:
            padded = pad_to_multiple(self.field, multiple) if _maps(denoiser, whole) else self.field
            seen = to_device(denoiser.observe([padded], whole), device)
            for name, signal in denoiser.encode(seen).items():
                is_map = denoiser.conditioner(name).spec.kind == "map"
                self._whole[name] = replace(signal, data=signal.data.cpu()) if is_map else signal

    @torch.inference_mode()
    def signals(self, windows: Sequence[Window]) -> dict[str, Signal]:
        """The encoded conditions of windows of one size, a row each, on the device."""
        signals = self.denoiser.encode(to_device(self._observe(windows), self.device))
        for name, whole in self._whole.items():
            is_map = self.denoiser.conditioner(name).spec.kind == "map"
            signals[name] = self._cuts(whole, windows) if is_map else _repeat(whole, len(windows))
        return {name: signals[name] for name in self.denoiser.names}

    def _cuts(self, whole: Signal, windows: Sequence[Window]) -> Signal:
        if whole.constant:
            first = whole.data[(..., *windows[0].at)].to(self.device)
            return Signal(first.expand(len(windows), *first.shape[1:]))
        data = torch.cat([whole.data[(..., *window.at)] for window in windows])
        return Signal(data.to(self.device).contiguous(memory_format=torch.channels_last))

    def _observe(self, windows: Sequence[Window]) -> dict[str, Observation]:
        seen: dict[str, list[Observation]] = {name: [] for name in self._local}
        for window in windows if self._local else ():
            box = self._around(window)
            sample = self._cut(box)
            inner = (
                slice(window.top - box[0], window.top - box[0] + window.height),
                slice(window.left - box[1], window.left - box[1] + window.width),
            )
            size = sample.size
            for name in self._local:
                observation = guard.observe(name, self.denoiser.conditioner(name), sample)
                seen[name].append(
                    {k: v[(..., *inner)] if v.shape[-2:] == size else v for k, v in observation.items()}
                )
        return {name: guard.collate(name, self.denoiser.conditioner(name), o) for name, o in seen.items()}

    def _around(self, window: Window) -> Box:
        """The window and all of the instances in it, and `reach` more, within the padded field."""
        rows, columns = window.at
        found = [(rows.start, columns.start, rows.stop, columns.stop)]
        for kind, labels in self.field.masks.items():
            inside = np.unique(labels[rows, columns])
            found += [self._boxes[kind][label] for label in inside[inside > 0].tolist()]
        corners = np.array(found)
        top, left = corners[:, :2].min(axis=0) - self._reach
        bottom, right = corners[:, 2:].max(axis=0) + self._reach
        return max(top, 0), max(left, 0), min(bottom, self.size[0]), min(right, self.size[1])

    def _cut(self, box: Box) -> Sample:
        top, left, bottom, right = box

        def cut(array: NDArray[Any]) -> NDArray[Any]:
            inside = np.ascontiguousarray(array[..., top:bottom, left:right])
            lacking = [(0, 0)] * (array.ndim - 2)
            lacking += [(0, bottom - top - inside.shape[-2]), (0, right - left - inside.shape[-1])]
            return np.pad(inside, lacking) if any(after for _, after in lacking) else inside

        masks = {k: cut(m) for k, m in self.field.masks.items()}
        height, width = self.field.size
        inside = (min(bottom, height) - top, min(right, width) - left)
        unpadded = None if inside == (bottom - top, right - left) else inside
        return replace(self.field, image=None, keep=None, masks=masks, unpadded=unpadded)


def boxes(labels: Labels) -> dict[int, Box]:
    """The box of every instance, searched for band by band."""
    from scipy.ndimage import find_objects

    height, width = labels.shape
    found: dict[int, Box] = {}
    rows = max(1, _PIXELS // max(1, width))
    for start in range(0, height, rows):
        ids, dense = np.unique(labels[start : start + rows], return_inverse=True)
        objects = find_objects(dense.reshape(-1, width) + 1)
        for label, (y, x) in zip(ids.tolist(), objects, strict=True):
            if label > 0:
                box = (start + y.start, x.start, start + y.stop, x.stop)
                old = found.get(label, box)
                found[label] = (
                    min(box[0], old[0]), min(box[1], old[1]), max(box[2], old[2]), max(box[3], old[3])
                )  # fmt: skip
    return found


def _measured(look: Appearance) -> Appearance:
    """The same colours, measured once and not in every window."""
    found: dict[str, ColourStatistics] = {}
    for kind in look.masks if look.image is not None else ():
        colours = look.colours(kind)
        if colours is not None:
            found[kind] = colours
    return replace(look, statistics={**found, **look.statistics})


def _maps(denoiser: Denoiser, names: Sequence[str]) -> bool:
    return any(denoiser.conditioner(name).spec.kind == "map" for name in names)


def _repeat(signal: Signal, count: int) -> Signal:
    def rows(tensor: Tensor) -> Tensor:
        return tensor if count == 1 else tensor.expand(count, *tensor.shape[1:]).contiguous()

    return Signal(rows(signal.data), None if signal.mask is None else rows(signal.mask))
