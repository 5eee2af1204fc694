"""The noise of a round: discrete Gaussian integers, a function of a secret, the updates, and the element.

Two attempts of a round with the same updates add the same noise, so that comparing their results reveals
nothing. With other updates the noise is another one, since otherwise the difference of two results would be
the update that is missing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from aggregation.errors import RuleError
from aggregation.privacy import discrete_gaussian
from aggregation.privacy.discrete_gaussian import FACTOR_BITS, LEVELS, TIE_BYTES, Int64s, Words

#: Bytes of a seed and of a digest.
SEED_BYTES, DIGEST_BYTES = 32, 32

#: Separates the keys from those of other purposes, and of other versions of this module.
_LABEL = b"federated aggregation: noise, version 1"

#: Each element owns one block of AES; the blocks from here on break ties.
_BLOCK_BYTES = 16
_FIRST_TIE_BLOCK = 1 << 127

#: Numbers that are drawn at once: their blocks stay in the processor's cache.
_AT_ONCE = 16 << 10


class Noise:
    """Discrete Gaussian numbers with the parameter `aggregation.privacy.discrete_gaussian.SIGMA_SQUARED`.

    The stream is AES-256 in counter mode, with a key that HKDF derives (RFC 5869, SHA-256). Element ``e``
    owns block ``e`` of the stream: the numbers do not depend on how a range was cut.

    Parameters
    ----------
    seed : bytes
        32 secret random bytes, drawn for one round.
    updates_digest : bytes
        `digest_of` the final set of updates.

    Raises
    ------
    RuleError
        If one of them is not 32 bytes long.
    """

    def __init__(self, seed: bytes, updates_digest: bytes) -> None:
        for name, value, size in (
            ("seed", seed, SEED_BYTES),
            ("digest", updates_digest, DIGEST_BYTES),
        ):
            if not isinstance(value, bytes) or len(value) != size:
                raise RuleError(f"the {name} of the noise must be {size} bytes")
        self._stream = _Stream(_key_of(seed, updates_digest))

    def integers(self, first_element: int, count: int) -> Int64s:
        """Return the noise of elements from ``first_element`` on, in units of the grid.

        Parameters
        ----------
        first_element : int
            Position in the flattened model.
        count : int

        Returns
        -------
        (count,) int64
        """
        noise = np.empty(count, np.int64)
        for first in range(0, count, _AT_ONCE):
            cut = noise[first : first + _AT_ONCE]
            self._fill(first_element + first, cut)
        return noise

    def _fill(self, first_element: int, noise: Int64s) -> None:
        table = discrete_gaussian.table()
        words = self._stream.words(first_element, len(noise))
        noise.fill(0)
        for level in range(LEVELS):
            of_level = np.ascontiguousarray(words[:, level])
            values, ties = table.draws(of_level)
            for position in ties.tolist():
                rest = self._stream.tie_breaker(first_element + position, level)
                values[position] = table.value_of_tie(int(of_level[position]), rest)
            np.left_shift(noise, FACTOR_BITS, out=noise)
            np.add(noise, values, out=noise)


class _Stream:
    """A stream of pseudorandom blocks that can be read from any block on."""

    def __init__(self, key: bytes) -> None:
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

        def encryptor(first_block: int) -> Any:
            counter = first_block.to_bytes(_BLOCK_BYTES, "big")
            return Cipher(algorithms.AES256(key), modes.CTR(counter)).encryptor()

        self._encryptor = encryptor
        self._zeros = bytes(_AT_ONCE * _BLOCK_BYTES)

    def words(self, first_block: int, blocks: int) -> Words:
        """Return the words of some blocks, (blocks, 4)."""
        zeros = memoryview(self._zeros)[: blocks * _BLOCK_BYTES]
        stream = self._encryptor(first_block).update(zeros)
        return np.frombuffer(stream, "<u4").reshape(blocks, -1).astype(np.uint32, copy=False)

    def tie_breaker(self, element: int, level: int) -> bytes:
        """Return the bits that decide on a tie of an element."""
        blocks = TIE_BYTES // _BLOCK_BYTES
        first_block = _FIRST_TIE_BLOCK + (element * LEVELS + level) * blocks
        return bytes(self._encryptor(first_block).update(bytes(TIE_BYTES)))


def digest_of(updates: Iterable[str]) -> bytes:
    """Return the digest of a set of updates.

    Parameters
    ----------
    updates : iterable of str
        What identifies the content of each one: its location with its version or ETag, or a hash. The
        order does not matter.
    """
    each = sorted(hashlib.sha256(update.encode()).digest() for update in updates)
    return hashlib.sha256(b"".join(each)).digest()


def _key_of(seed: bytes, updates_digest: bytes) -> bytes:
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return HKDF(SHA256(), length=32, salt=None, info=_LABEL + updates_digest).derive(seed)
