"""Changes that keep a file's format, so that a reader comes to what lies inside."""

import io
import json
import struct
import zipfile
import zlib
from random import Random
from typing import Any

from . import mutate
from .mutate import NUMBERS, raw

PNG = b"\x89PNG\r\n\x1a\n"


def png(data: bytes, rng: Random) -> bytes:
    """Changes within a chunk of a PNG, whose checksum is right again; or between chunks."""
    chunks: list[tuple[bytes, bytes]] = []
    at = len(PNG)
    while at + 12 <= len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    if not chunks or rng.random() < 0.2:
        return raw(data, rng)
    k = rng.randrange(len(chunks))
    name, body = chunks[k]
    kind = rng.randrange(6)
    if kind == 0 and len(chunks) > 1:
        chunks.insert(rng.randrange(len(chunks)), chunks.pop(k))
    elif kind == 1:
        chunks.insert(k, (rng.choice((b"PLTE", b"tRNS", b"tEXt", b"zTXt", b"iTXt", b"iCCP", name)), body))
    elif kind == 2 and name == b"IHDR":
        sides = [rng.choice(NUMBERS) % 2**32 for _ in range(2)]
        tail = bytes(rng.choice((0, 1, 2, 3, 4, 6, 8, 16)) for _ in range(5))
        chunks[k] = (name, struct.pack(">II", *sides) + rng.choice((tail, body[8:])))
    elif kind == 3 and name == b"IDAT":
        try:
            chunks[k] = (name, zlib.compress(raw(zlib.decompress(body), rng)))
        except zlib.error:
            chunks[k] = (name, raw(body, rng))
    else:
        chunks[k] = (name, raw(body, rng))
    parts = [PNG]
    for name, body in chunks:
        name = name.ljust(4)[:4]
        parts.append(struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)))
    return b"".join(parts)


def tiff(data: bytes, rng: Random) -> bytes:
    """Changes tags of a TIFF: their numbers, types, counts and values."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None or len(data) < 16 or rng.random() < 0.25:
        return raw(data, rng)
    out = bytearray(data)
    big = data[2:4] in (b"+\0", b"\0+")
    offset = struct.unpack(f"{order}{'Q' if big else 'I'}", data[8:16] if big else data[4:8])[0]
    head, entry = (8, 20) if big else (2, 12)
    if offset + head > len(data):
        return raw(data, rng)
    count = struct.unpack_from(f"{order}{'Q' if big else 'H'}", data, offset)[0]
    for _ in range(rng.choice((1, 1, 2, 3))):
        at = offset + head + entry * rng.randrange(max(1, min(count, 60)))
        if at + entry > len(out):
            continue
        field = rng.randrange(4)
        number = rng.choice(NUMBERS)
        if field == 0:
            tags = (254, 256, 257, 258, 259, 262, 273, 277, 278, 279, 284, 317, 320, 322, 323, 324, 325, 339)
            struct.pack_into(f"{order}H", out, at, rng.choice(tags))
        elif field == 1:
            struct.pack_into(f"{order}H", out, at + 2, rng.randrange(20))
        elif field == 2:
            struct.pack_into(f"{order}{'Q' if big else 'I'}", out, at + 4, number % (2**64 if big else 2**32))
        else:
            code, place = rng.choice((("H", at + entry - (8 if big else 4)), ("I", at + entry - 4)))
            small = rng.choice((number, number, rng.randrange(20), 32773, 50000))
            struct.pack_into(f"{order}{code}", out, place, small % 2 ** (8 * struct.calcsize(code)))
    return bytes(out)


def safetensors(data: bytes, rng: Random) -> bytes:
    """Changes the header of safetensors, its length, and what JSON its metadata hold."""
    (length,) = struct.unpack("<Q", data[:8].ljust(8, b"\0"))
    if length > len(data) or rng.random() < 0.15:
        return raw(data, rng)
    try:
        header: dict[str, Any] = json.loads(data[8 : 8 + length])
    except ValueError:
        return raw(data, rng)
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    if isinstance(metadata, dict) and metadata and rng.random() < 0.5:
        key = rng.choice(sorted(metadata))
        metadata[key] = mutate.json_bytes(str(metadata[key]).encode(), rng).decode("utf-8", "replace")
    else:
        header = mutate.tree(header, rng)
    text = json.dumps(header).encode("utf-8", "surrogatepass")
    stated = rng.choice(NUMBERS) % 2**64 if rng.random() < 0.1 else len(text)
    return struct.pack("<Q", stated) + text + data[8 + length :]


def npy(data: bytes, rng: Random) -> bytes:
    """Changes the header of a .npy, and states its length as it is then."""
    if data[:6] != b"\x93NUMPY" or len(data) < 10 or rng.random() < 0.3:
        return raw(data, rng)
    (length,) = struct.unpack("<H", data[8:10])
    header, body = data[10 : 10 + length], data[10 + length :]
    words = (
        "'|O'", "'<u1'", "'<f8'", "'<U9'", "'V99999999'", "True", "(9999999999,)", "(-1,)", "()", "(0,)",
        "1e9",
        "{}", "[('a','<i4')]", "'fortran_order'", "-", "(2,2,2,2,2,2)", "'<i4'", "[" * 500, "9" * 5000, "\n",
    )  # fmt: skip
    header = mutate.text(words)(header, rng)
    return data[:8] + struct.pack("<H", len(header) % 65536) + header + body


def archive(members: dict[str, Any], methods: tuple[int, ...] = (0, 8)) -> mutate.Mutator:
    """Changes members of a ZIP (by the mutator of their suffix), their names, and what it declares.

    `methods` are those of compression.
    """

    def change(data: bytes, rng: Random) -> bytes:
        if rng.random() < 0.3:
            return raw(data, rng)
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as file:
                found = [(info.filename, file.read(info)) for info in file.infolist()]
        except Exception:
            return raw(data, rng)
        for _ in range(rng.choice((1, 1, 2))):
            if not found:
                break
            k = rng.randrange(len(found))
            name, body = found[k]
            kind = rng.randrange(6)
            if kind == 0:
                found[k] = (rng.choice(mutate.NAMES) + rng.choice(("", name)), body)
            elif kind == 1:
                found.append(found[k])
            elif kind == 2:
                del found[k]
            else:
                change_member = members.get(name.rpartition(".")[2], raw)
                found[k] = (name, change_member(body, rng))
        out = io.BytesIO()
        try:
            with zipfile.ZipFile(out, "w", rng.choice(methods)) as file:
                for name, body in found:
                    file.writestr(name or "_", body)
        except (ValueError, UnicodeEncodeError):
            return raw(data, rng)
        made = out.getvalue()
        return raw(made, rng) if rng.random() < 0.1 else made

    return change


def mat(data: bytes, rng: Random) -> bytes:
    """Changes whole words of 4 bytes in a .mat, and what a compressed variable of it holds."""
    out = bytearray(data)
    if len(out) > 140 and out[128:132] == b"\x0f\0\0\0" and rng.random() < 0.7:
        try:
            inner = mat(bytes(128) + zlib.decompress(bytes(out[136:])), rng)[128:]
        except zlib.error:
            return raw(data, rng)
        packed = zlib.compress(inner)
        return bytes(out[:132]) + struct.pack("<I", len(packed)) + packed
    if rng.random() < 0.3 or len(out) < 136:
        return raw(data, rng)
    for _ in range(rng.choice((1, 1, 2, 3))):
        at = 128 + 4 * rng.randrange((len(out) - 128) // 4)
        number = rng.choice((rng.choice(NUMBERS), rng.randrange(20)))
        struct.pack_into("<I", out, at, number % 2**32)
    return bytes(out)
