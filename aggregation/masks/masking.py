"""Mask quantised differences, so that they look random to all parties but the mask keeper.

A client quantises its clipped difference to integers modulo 2**32 and adds a mask, the keystream of a fresh
seed. The sum of masked updates minus the sum of their masks is the sum of the quantised differences.
"""

from __future__ import annotations

import secrets
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

UInt32s = NDArray[np.uint32]
Float64s = NDArray[np.float64]

#: Bytes of a seed, of an AES-256 key and of a digest.
SEED_BYTES = 32

#: Elements of one block of AES.
_PER_BLOCK = 4

#: Elements of the keystream that are generated at once: they stay in the processor's cache.
CACHED = 64 << 10

_ZEROS = bytes(4 * CACHED + 16)


def new_seed() -> bytes:
    """Return a fresh seed; each seed masks one update."""
    return secrets.token_bytes(SEED_BYTES)


def derive(secret: bytes, purpose: str) -> bytes:
    """Return 32 bytes that follow from a secret for one purpose (HKDF-SHA256, RFC 5869)."""
    info = b"serverless-federated-aggregator " + purpose.encode()
    return HKDF(algorithm=SHA256(), length=SEED_BYTES, salt=None, info=info).derive(secret)


def commitment_of(seed: bytes) -> str:
    """Return the commitment to a seed, in hexadecimal digits. It reveals nothing about the mask."""
    return derive(seed, "commitment").hex()


class Mask:
    """The mask of one update: the keystream of AES-256-CTR under a key that follows from the seed.

    An element's value depends on its position alone, so that any range can be computed.

    Parameters
    ----------
    seed : bytes
        `SEED_BYTES` of them.
    """

    def __init__(self, seed: bytes) -> None:
        self._cipher_key = algorithms.AES256(derive(seed, "mask"))

    def add_to(self, values: UInt32s, start: int) -> None:
        """Add the mask of the elements from ``start`` on to values, modulo 2**32, in place."""
        scratch = np.empty(4 * CACHED + 16, np.uint8)
        for begin in range(0, len(values), CACHED):
            piece = values[begin : begin + CACHED]
            np.add(piece, self._keystream(start + begin, len(piece), scratch), out=piece)

    def _keystream(self, start: int, count: int, scratch: NDArray[np.uint8]) -> UInt32s:
        """Return ``count`` elements of the keystream, at most `CACHED`, in scratch memory."""
        block, skipped = divmod(start, _PER_BLOCK)
        nbytes = 4 * (skipped + count)
        counter = modes.CTR(block.to_bytes(16, "big"))
        encryptor = Cipher(self._cipher_key, counter).encryptor()
        encryptor.update_into(memoryview(_ZEROS)[:nbytes], scratch[:nbytes].data)
        return scratch[:nbytes].view("<u4")[skipped:]


def quantised(values: NDArray[Any], factor: float, limit: int) -> UInt32s:
    """Return differences as integers modulo 2**32.

    Parameters
    ----------
    values : (n,) float array
        Of a clipped difference.
    factor : float
        Units of the integers in 1.0, times the share of its weight that the update counts.
    limit : int
        The largest absolute value of an integer, below 2**31.

    Returns
    -------
    (n,) uint32
        ``rint(values * factor)`` in two's complement.

    Raises
    ------
    ValueError
        If a value is not finite.
    """
    products = values.astype(np.float64) * factor
    if not np.isfinite(products).all():
        raise ValueError("the values of an update must be finite")
    rounded = np.rint(products, out=products).clip(-limit, limit)
    return rounded.astype(np.int32).view(np.uint32)


def dequantised(total: UInt32s, divisor: float) -> Float64s:
    """Return the mean that belongs to a sum of quantised updates.

    Parameters
    ----------
    total : (n,) uint32
        The sum modulo 2**32; its true value lies in [-2**31, 2**31).
    divisor : float
    """
    return total.view(np.int32).astype(np.float64) / divisor
