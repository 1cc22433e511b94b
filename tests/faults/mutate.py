"""Damage to the bytes of a valid file, the same at every run: what a bad disk, a cut download or an attacker makes.

A mutation is one to four changes. Half of the changes lie in the first bytes, where most formats keep their lengths.
"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Callable, Iterator

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
HEAD_BYTES = 256
MAX_BLOCK = 64
MAX_GROWTH = 1 << 16
ODD_BYTES = (0x00, 0x01, 0x7F, 0x80, 0xFE, 0xFF)
ODD_NUMBERS = (
    b"0", b"-1", b"1e400", b"-1e400", b"NaN", b"Infinity", b"1.5", b"null", b"true", b'"x"', b"[]", b"{}",
    b"9" * 30, b"9" * 5000, b"[" * 5000 + b"]" * 5000, b'{"a":' * 2000 + b"1" + b"}" * 2000,
)  # fmt: skip
NUMBER = re.compile(rb"-?\d+")

Change = Callable[[bytearray, random.Random], None]


def mutations(seed: bytes, count: int, random_seed: int) -> Iterator[bytes]:
    """`count` damaged versions of `seed`; number i depends on `seed`, `random_seed` and i alone."""
    return (mutation(seed, random_seed, index) for index in range(count))


def mutation(seed: bytes, random_seed: int, index: int) -> bytes:
    """Damaged version number `index` of `seed`."""
    chance = random.Random(random_seed * 1_000_003 + index)
    data = bytearray(seed)
    for _ in range(chance.randint(1, 4)):
        chance.choice(CHANGES)(data, chance)
    return bytes(data[: len(seed) + MAX_GROWTH])


def _position(data: bytearray, chance: random.Random) -> int:
    """A position in the data, half of the time among the first bytes."""
    end = len(data) if chance.random() < 0.5 else min(len(data), HEAD_BYTES)
    return chance.randrange(end) if end else 0


def _block(data: bytearray, chance: random.Random) -> bytes:
    """A piece of the data."""
    start = _position(data, chance)
    return bytes(data[start : start + chance.randint(1, MAX_BLOCK)])


def flip_bit(data: bytearray, chance: random.Random) -> None:
    """Flip one bit."""
    if data:
        data[_position(data, chance)] ^= 1 << chance.randrange(8)


def set_byte(data: bytearray, chance: random.Random) -> None:
    """Set one byte, half of the time to a value at the end of a range."""
    if data:
        data[_position(data, chance)] = chance.choice(ODD_BYTES) if chance.random() < 0.5 else chance.randrange(256)


def copy_block(data: bytearray, chance: random.Random) -> None:
    """Write a piece of the data over another place."""
    block, at = _block(data, chance), _position(data, chance)
    data[at : at + len(block)] = block


def insert_block(data: bytearray, chance: random.Random) -> None:
    """Insert a piece of the data, or random bytes; sometimes many times over."""
    block = _block(data, chance) if chance.random() < 0.5 else chance.randbytes(chance.randint(1, MAX_BLOCK))
    at = _position(data, chance)
    data[at:at] = block * (chance.randint(2, 200) if chance.random() < 0.1 else 1)


def delete_block(data: bytearray, chance: random.Random) -> None:
    """Remove a piece of the data."""
    start = _position(data, chance)
    del data[start : start + chance.randint(1, MAX_BLOCK)]


def cut_off(data: bytearray, chance: random.Random) -> None:
    """Keep only the beginning."""
    del data[_position(data, chance) :]


def set_length(data: bytearray, chance: random.Random) -> None:
    """Write an odd number over 2, 4 or 8 bytes, as if it were a length, an offset or a size."""
    width, order = chance.choice((2, 4, 8)), chance.choice(("big", "little"))
    at = _position(data, chance)
    old = int.from_bytes(data[at : at + width], order)
    top = 1 << 8 * width
    odd = (0, 1, len(data), len(data) - at, top - 1, top // 2 - 1, top // 2, old + 1, old - 1, 2 * old, old << 8)
    data[at : at + width] = (chance.choice(odd) % top).to_bytes(width, order)


def set_number(data: bytearray, chance: random.Random) -> None:
    """Replace a number that is written in digits, in JSON, TOML or a tar header, by an odd value."""
    numbers = list(NUMBER.finditer(data[: 1 << 16]))
    if numbers:
        found = chance.choice(numbers)
        data[found.start() : found.end()] = chance.choice(ODD_NUMBERS)


CHANGES: tuple[Change, ...] = (
    flip_bit, flip_bit, set_byte, set_byte, copy_block, insert_block, delete_block, cut_off, set_length, set_length,
    set_number,
)  # fmt: skip


def repair_png(data: bytes) -> bytes:
    """A PNG whose chunks have right checksums, so that a reader looks at what they hold; else the data as it is."""
    if not data.startswith(PNG_SIGNATURE):
        return data
    parts, at = [PNG_SIGNATURE], len(PNG_SIGNATURE)
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        if at + 12 + length > len(data):
            break
        parts += [data[at : at + 8 + length], zlib.crc32(data[at + 4 : at + 8 + length]).to_bytes(4, "big")]
        at += 12 + length
    return b"".join(parts) + data[at:]
