"""Write the object of a masked update."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from typing import BinaryIO

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ..formats.safetensors_header import encode_header
from ..layout import TensorLayout
from .masking import Mask, UInt32s, commitment_of, new_seed
from .messages import Header, Message, new_message
from .settings import layout_digest
from .weights import BLOCK_BYTES, digests_of, stored_layout_of

#: What the header says of what is not known before the tensors are written.
_UNKNOWN = "0" * 64


def write_masked(
    file: BinaryIO,
    layout: TensorLayout,
    pieces: Iterable[UInt32s],
    header: Header,
    signing_key: Ed25519PrivateKey,
) -> Message:
    """Mask quantised differences with a fresh seed and write them with their signed message.

    Parameters
    ----------
    file : binary file
        Empty, and able to seek: the message, which depends on the tensors, comes before them.
    layout : TensorLayout
        Of the model's masked updates.
    pieces : iterable of (n,) uint32
        The quantised elements in the order of the layout. They are overwritten.
    header : Header
        Its digests and its commitment are filled in.
    signing_key : Ed25519PrivateKey
        The client's.
    """
    seed = new_seed()
    stored = stored_layout_of(layout)
    header = replace(
        header,
        elements=layout.size,
        layout=layout_digest(layout),
        commitment=commitment_of(seed),
        tensors=_UNKNOWN,
    )
    placeholder = new_message(header, seed, signing_key)
    file.write(encode_header(stored, placeholder.to_mapping()))
    digests = _write_tensors(file, Mask(seed), pieces)
    file.write(digests)
    header = replace(header, tensors=hashlib.sha256(digests).hexdigest())
    message = new_message(header, seed, signing_key)
    file.seek(0)  # All values that have changed have as many digits as before.
    file.write(encode_header(stored, message.to_mapping()))
    return message


def _write_tensors(file: BinaryIO, mask: Mask, pieces: Iterable[UInt32s]) -> bytes:
    """Write masked elements, and return the digests of their blocks."""
    digests, rest, start = bytearray(), bytearray(), 0
    for values in pieces:
        mask.add_to(values, start)
        start += len(values)
        data = values.tobytes()
        file.write(data)
        rest += data
        whole = len(rest) - len(rest) % BLOCK_BYTES
        digests += digests_of(memoryview(rest[:whole]))
        rest = rest[whole:]
    digests += digests_of(memoryview(rest))
    return bytes(digests)
