"""Mutations of a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

#: Numbers at the limits of sizes, offsets and flags.
NUMBERS = (0, 1, 2, 7, 8, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 62)

#: Pieces of the formats' grammars.
TOKENS = (
    b"[", b"]", b"{", b"}", b",", b":", b'"', b"'", b"(", b")", b"-", b".", b"e9", b"0", b"1", b"\0",
    b"[[", b"]]", b"[]", b"{}", b"null", b"true", b"NaN", b"Infinity", b"1e999", b"-0.0", b"1.5",
    b"9" * 20, b"9" * 400, b'"shape":[', b'"dtype":"F64"', b'"data_offsets":[0,0]', b'"x"', b"\\ud800",
    b"(2,)", b"(0,)", b"()", b"True", b"'<f8'", b"'>f4'", b"'|O'", b"'<V2'", b'"f4"', b"2L",
    b"PK\1\2", b"PK\3\4", b"PK\5\6", b"PK\6\6", b"PK\6\7", b"\x93NUMPY\1\0",
    b"\xff\xfe", b"\xc3\xa9", b" ", b"\n",
)  # fmt: skip


def flip(data: bytearray, random: Random) -> None:
    """Flip a bit."""
    data[random.randrange(len(data))] ^= 1 << random.randrange(8)


def overwrite(data: bytearray, random: Random) -> None:
    """Overwrite bytes with one of the extreme numbers, in a random width."""
    place = random.randrange(len(data))
    width = random.choice((1, 2, 4, 8))
    number = random.choice(NUMBERS) & ((1 << 8 * width) - 1)
    data[place : place + width] = number.to_bytes(width, "little")


def insert(data: bytearray, random: Random) -> None:
    """Insert a token."""
    place = random.randrange(len(data))
    data[place:place] = random.choice(TOKENS)


def replace(data: bytearray, random: Random) -> None:
    """Replace bytes by a token."""
    place = random.randrange(len(data))
    token = random.choice(TOKENS)
    data[place : place + random.choice((1, len(token)))] = token


def cut(data: bytearray, random: Random) -> None:
    """Remove some bytes."""
    place = random.randrange(len(data))
    del data[place : place + random.choice((1, 2, 4, 16, 64))]


def repeat(data: bytearray, random: Random) -> None:
    """Repeat some bytes."""
    place = random.randrange(len(data))
    piece = data[place : place + random.choice((1, 2, 8, 46, 100))]
    data[place:place] = piece * random.choice((1, 1, 1, 30))


def move(data: bytearray, random: Random) -> None:
    """Overwrite bytes with others of the file."""
    source, target = random.randrange(len(data)), random.randrange(len(data))
    piece = data[source : source + random.choice((1, 4, 8, 32))]
    data[target : target + len(piece)] = piece


def end(data: bytearray, random: Random) -> None:
    """Remove the end."""
    del data[random.randrange(len(data)) :]


MUTATIONS: Sequence[Callable[[bytearray, Random], None]] = (
    flip, overwrite, overwrite, insert, replace, replace, cut, repeat, move, end,
)  # fmt: skip


def mutated(data: bytes, random: Random) -> bytes:
    """Return the data after one or more mutations."""
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 3, 8))):
        if changed:
            random.choice(MUTATIONS)(changed, random)
    return bytes(changed)
