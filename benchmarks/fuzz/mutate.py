"""Changes of bytes, and of trees of JSON, that are likely to break a reader. All are drawn from one seed."""

import copy
import json
import struct
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

Mutator = Callable[[bytes, Random], bytes]

NUMBERS = (
    0, 1, 2, 3, 7, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 10**6, 2**24, 2**30, 2**31 - 1, 2**31,
    2**32 - 1, 2**32, 2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 1,
)  # fmt: skip
NAMES = (
    "", ".", "..", "../x", "/etc/passwd", "..\\x", "C:\\x", "a/../../b", "a\0b", "\x1b[31m", "a\nb", "NUL",
    "x" * 300, "\ud800", "é", "id", "=1+1", "'", '"', ",", "-", "~", "nan", "-0", "٣", "²", "__class__",
)  # fmt: skip
_DEEP = 3000
LONG = 2**18
"""Bytes of a repeated word."""


def values(rng: Random) -> Any:
    """A value of JSON that a reader may not expect."""
    kind = rng.randrange(12)
    if kind == 0:
        return rng.choice((None, True, False))
    if kind <= 3:
        return rng.choice(NUMBERS) * rng.choice((1, 1, -1))
    if kind == 4:
        return rng.choice((0.5, -0.5, 1e-320, 1e308, -1e308, float("nan"), float("inf"), 10**400))
    if kind <= 6:
        return rng.choice(NAMES)
    if kind == 7:
        return rng.choice(([], {}, [[]], [{}], {"": {}}, [None], [0], "x" * 5000))
    if kind == 8:
        deep: Any = 0
        for _ in range(rng.choice((3, 30, 300))):
            deep = [deep] if rng.random() < 0.5 else {"a": deep}
        return deep
    if kind == 9:
        return [rng.choice(NUMBERS) for _ in range(rng.randrange(9))]
    return rng.randrange(-3, 20)


def nodes(tree: Any) -> list[tuple[Any, Any]]:
    """Every place of a tree, as container and key."""
    found: list[tuple[Any, Any]] = []
    left = [tree]
    while left:
        node = left.pop()
        items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        for key, below in items:
            found.append((node, key))
            left.append(below)
    return found


def tree(value: Any, rng: Random) -> Any:
    """A copy of a tree of JSON with a few places changed, taken out, doubled or exchanged."""
    changed = [copy.deepcopy(value)]
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        places = nodes(changed)
        holder, key = rng.choice(places)
        kind = rng.randrange(10)
        if kind <= 4:
            holder[key] = values(rng)
        elif kind == 5:
            del holder[key]
            if not changed:
                changed = [None]
        elif kind == 6 and isinstance(holder, list):
            holder.insert(key, copy.deepcopy(holder[key]))
        elif kind == 6:
            holder[rng.choice(NAMES)] = holder.pop(key)
        elif kind == 7:
            other, at = rng.choice(places)
            holder[key] = copy.deepcopy(other[at])
        elif kind == 8 and isinstance(holder[key], int | float) and not isinstance(holder[key], bool):
            holder[key] = _near(holder[key], rng)
        else:
            holder[key] = [holder[key]] if rng.random() < 0.5 else {"a": holder[key]}
    return changed[0]


def _near(number: int | float, rng: Random) -> int | float:
    try:
        return number * rng.choice((-1, 2, 0.5, 1e9)) + rng.choice((0, 1, -1, 0.5))
    except OverflowError:
        return -number


def json_bytes(data: bytes, rng: Random) -> bytes:
    """Changes a text of JSON as a tree, and now and then as bytes."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return raw(data, rng)
    if rng.random() < 0.02:
        return b"[" * _DEEP + b"]" * _DEEP
    try:
        changed = json.dumps(tree(found, rng)).encode("utf-8", "surrogatepass")
    except RecursionError:  # a change of changes may be nested too deeply to be copied
        return raw(data, rng)
    return raw(changed, rng) if rng.random() < 0.1 else changed


def raw(data: bytes, rng: Random) -> bytes:
    """Changes bytes: flips, numbers, pieces taken out, doubled, moved; ends cut off."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at = rng.randrange(len(out) + 1)
        kind = rng.randrange(9)
        length = min(rng.choice((1, 1, 2, 4, 8, 64)), len(out) - at)
        if kind == 0 and at < len(out):
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and at < len(out):
            out[at] = rng.randrange(256)
        elif kind in (2, 3):
            code = rng.choice("BHIQ")
            number = rng.choice(NUMBERS) % 2 ** (8 * struct.calcsize(code))
            packed = struct.pack(rng.choice("<>") + code, number)
            out[at : at + len(packed)] = packed
        elif kind == 4:
            del out[at : at + length]
        elif kind == 5:
            out[at:at] = out[at : at + length]
        elif kind == 6:
            out[at:at] = rng.randbytes(length)
        elif kind == 7:
            start = rng.randrange(len(out) + 1)
            out[at : at + length] = out[start : start + length]
        elif rng.random() < 0.3:
            del out[at:]
    return bytes(out)


def text(words: Sequence[str]) -> Mutator:
    """Changes a text by words of its format, by its lines, and as bytes."""

    def change(data: bytes, rng: Random) -> bytes:
        if rng.random() < 0.25:
            return raw(data, rng)
        lines = data.split(b"\n")
        for _ in range(rng.choice((1, 1, 2, 4))):
            k = rng.randrange(len(lines))
            line = lines[k]
            word = rng.choice(words).encode("utf-8", "surrogatepass")
            at = rng.randrange(len(line) + 1)
            kind = rng.randrange(6)
            if kind == 0:
                lines[k] = line[:at] + word + line[at:]
            elif kind == 1:
                lines[k] = line[:at] + word + line[at + len(word) :]
            elif kind == 2:
                lines.insert(k, rng.choice(lines))
            elif kind == 3 and len(lines) > 1:
                del lines[k]
            elif kind == 4:
                cells = line.split(b",")
                cells[rng.randrange(len(cells))] = word
                lines[k] = b",".join(cells)
            else:
                lines[k] = (
                    line[:at]
                    + word * min(rng.choice((1, 1, 1, 1, 3, 3, 10, 2000)), 1 + LONG // (len(word) + 1))
                    + line[at:]
                )
        return b"\n".join(lines)[: 4 * LONG]

    return change


def either(*mutators: Mutator) -> Mutator:
    """One of several, drawn for each input."""
    return lambda data, rng: rng.choice(mutators)(data, rng)
