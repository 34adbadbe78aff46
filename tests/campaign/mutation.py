"""Damage to files: a few bytes, as disks and transfers do it, and edits that keep a format's outer form."""

import json
import random
import struct
import zlib
from collections.abc import Callable
from typing import Any

ODD: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1e308,
    10**30,
    float("nan"),
    "",
    "../../etc/passwd",
    "\x00\u202e",
    [],
    {},
    [[]],
)


def flip(rng: random.Random, data: bytes) -> bytes:
    """Change one to eight bits."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def cut(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def zero(rng: random.Random, data: bytes) -> bytes:
    """A block of zeros, as after a crash."""
    start = rng.randrange(len(data) + 1)
    length = min(rng.choice((16, 512, 4096)), len(data) - start)
    return data[:start] + bytes(length) + data[start + length :]


def splice(rng: random.Random, data: bytes) -> bytes:
    """A part of the file at another place of it."""
    start, to = rng.randrange(len(data) + 1), rng.randrange(len(data) + 1)
    return data[:to] + data[start : start + rng.randint(1, 64)] + data[to:]


def insert(rng: random.Random, data: bytes) -> bytes:
    to = rng.randrange(len(data) + 1)
    return (
        data[:to] + rng.choice((b"\xff" * 8, b"\0" * 8, b"-1", b"[" * 5000, b"9" * 5000, rng.randbytes(16))) + data[to:]
    )


DAMAGE: tuple[Callable[[random.Random, bytes], bytes], ...] = (flip, flip, cut, zero)
ANY = (*DAMAGE, splice, insert)


def damage(rng: random.Random, data: bytes) -> bytes:
    """Other bytes than these."""
    while (changed := rng.choice(DAMAGE)(rng, data)) == data and data:
        pass
    return changed


def mutate(rng: random.Random, data: bytes) -> bytes:
    """One to three edits of bytes."""
    for _ in range(rng.randint(1, 3)):
        data = rng.choice(ANY)(rng, data)
    return data


def edit_tree(rng: random.Random, tree: Any) -> Any:
    """A tree of lists and mappings with one value replaced, removed, repeated or renamed."""
    if isinstance(tree, dict) and tree and rng.random() < 0.85:
        key = rng.choice(list(tree))
        action = rng.random()
        if action < 0.1:
            return {name: value for name, value in tree.items() if name != key}
        if action < 0.2:
            return {**tree, str(rng.choice(ODD)): tree[key]}
        return {**tree, key: edit_tree(rng, tree[key])}
    if isinstance(tree, list) and tree and rng.random() < 0.85:
        index = rng.randrange(len(tree))
        if rng.random() < 0.2:
            return tree[:index] + tree[index + 1 :]
        if rng.random() < 0.1:
            return tree * rng.choice((2, 1000))
        return [*tree[:index], edit_tree(rng, tree[index]), *tree[index + 1 :]]
    return rng.choice(ODD)


def json_file(rng: random.Random, data: bytes) -> bytes:
    return json.dumps(edit_tree(rng, json.loads(data))).encode()


def safetensors_file(rng: random.Random, data: bytes) -> bytes:
    """Another header: types, shapes, places and metadata that lie."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    if rng.random() < 0.5:
        metadata = header["__metadata__"]
        key = rng.choice(list(metadata))
        # Without a digest as earlier versions wrote them, so that the rest is looked at.
        metadata = {name: value for name, value in metadata.items() if name != "sha256"}
        if key in metadata:
            try:
                metadata[key] = json.dumps(edit_tree(rng, json.loads(metadata[key])))
            except ValueError:
                metadata[key] = str(rng.choice(ODD))
        header["__metadata__"] = metadata
    else:
        header = edit_tree(rng, header)
    text = json.dumps(header).encode()
    length = len(text) if rng.random() < 0.9 else rng.choice((0, 2**63, 2**40))
    return length.to_bytes(8, "little") + text + data[8 + size :]


def png_file(rng: random.Random, data: bytes) -> bytes:
    """Other chunks, with right checksums."""
    chunks, place = [], 8
    while place + 12 <= len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        chunks.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + length]))
        place += 12 + length
    index = rng.randrange(len(chunks))
    kind, body = chunks[index]
    action = rng.random()
    if action < 0.4:
        sides = struct.pack(">II", *(rng.choice((0, 1, 33, 2**14, 2**24, 2**31 - 1)) for _ in range(2)))
        kind, body, index = (
            b"IHDR",
            sides + bytes([rng.choice((1, 8, 16)), rng.choice((0, 2, 3, 4, 6)), 0, 0, rng.randrange(2)]),
            0,
        )
    elif action < 0.6:
        body = mutate(rng, body)
    elif action < 0.8:
        bomb = zlib.compress(bytes(10**8))
        chunks.insert(
            1, rng.choice(((b"zTXt", b"a\0\0" + bomb), (b"iCCP", b"a\0\0" + bomb), (b"iTXt", b"a\0\1\0\0\0" + bomb)))
        )
        return _png(chunks)
    elif action < 0.9:
        kind = rng.choice((b"PLTE", b"tRNS", b"acTL", b"fdAT", b"gAMA", b"eXIf", b"IEND"))
    else:
        chunks.insert(rng.randrange(len(chunks)), (kind, body))
        return _png(chunks)
    chunks[index] = (kind, body)
    return _png(chunks)


def _png(chunks: list[tuple[bytes, bytes]]) -> bytes:
    parts = [
        len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big") for kind, body in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


YAML = (
    "a: &a [1,1,1,1,1,1,1,1,1]\n"
    + "".join(f"{chr(98 + n)}: &{chr(98 + n)} [{','.join([f'*{chr(97 + n)}'] * 9)}]\n" for n in range(8)),
    "&a [*a]",
    "[" * 3000,
    "{a: " * 3000,
    "- " * 3000 + "a",
    "!!python/object/apply:os.system ['touch hacked']",
    "a: !!binary x\n",
    "? [1, 2]\n: 3\n",
    "9" * 6000,
    "0x" + "f" * 6000,
    "2001-99-99",
    "- .nan\n- .inf\n",
    "%YAML 9.9\n---\na: 1\n",
    "a: 1\na: 2\n",
    "--- 1\n--- 2\n",
    "\x00",
    '- {name: "\\ud800", color: [0, 0, 0]}\n',
    "- {name: road, color: [0x10, 1_0, 010]}\n",
    "<<: 1\n",
    "*b\n",
)


def yaml_file(rng: random.Random, data: bytes) -> bytes:
    """Lines exchanged, or a file that is hostile as a whole."""
    if rng.random() < 0.4:
        return rng.choice(YAML).encode()
    lines = data.decode().splitlines()
    index = rng.randrange(len(lines))
    name, colon, _ = lines[index].partition(":")
    lines[index] = f"{name}{colon} {rng.choice((*ODD, *YAML))}" if rng.random() < 0.7 else rng.choice(lines)
    return "\n".join(lines).encode(errors="replace")


def reshape(rng: random.Random, data: bytes) -> bytes:
    """A file of arrays whose contents are other arrays, within a whole frame."""
    import io

    import numpy as np
    import zstandard

    plain = zstandard.ZstdDecompressor().decompress(data)
    if rng.random() < 0.5:
        plain = mutate(rng, plain)
    else:
        buffer = io.BytesIO()
        shape = rng.choice(((), (0,), (3, 24, 4), (3, 24, 5), (1, 1, 10**7)))
        np.save(buffer, np.zeros(shape, rng.choice(("u1", "f8", "i8", "?", "U3"))))
        plain = buffer.getvalue()
    return zstandard.ZstdCompressor(write_checksum=True).compress(plain)


STRUCTURE: dict[str, Callable[[random.Random, bytes], bytes]] = {
    ".safetensors": safetensors_file,
    ".png": png_file,
    ".json": json_file,
    ".yaml": yaml_file,
    ".zst": reshape,
}
