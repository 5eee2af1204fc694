"""Masked updates for tests."""

from __future__ import annotations

import io
import uuid
from dataclasses import replace
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from numpy.typing import NDArray

from aggregation.layout import Tensor, TensorLayout
from aggregation.masks.file import write_masked
from aggregation.masks.messages import Header
from aggregation.masks.settings import MASKED


def client_of(number: int) -> str:
    """Return the id of a client; ids are ordered by their numbers."""
    return str(uuid.UUID(int=(0x11111111111141118111 << 48) + number))


KEEPER = X25519PrivateKey.from_private_bytes(b"k" * 32)
SIGNING_KEY = Ed25519PrivateKey.from_private_bytes(b"c" * 32)

#: Six blocks and a bit, over three tensors.
LAYOUT = TensorLayout(
    (
        Tensor("a", MASKED, (3, 5000)),
        Tensor("b", MASKED, ()),
        Tensor("c", MASKED, (10_000,)),
    )
)

HEADER = Header(
    model=3,
    base=0,
    expires=2_000_000_000,
    client=client_of(1),
    keeper=KEEPER.public_key().public_bytes_raw().hex(),
    scale=1 << 16,
    limit=1 << 20,
    weight=1,
    max_weight=1,
    elements=0,
    layout="0" * 64,
    tensors="0" * 64,
    commitment="0" * 64,
)


def quantised_values(seed: int, size: int, limit: int = 1 << 20) -> NDArray[np.uint32]:
    """Return random quantised differences."""
    rng = np.random.default_rng(seed)
    return rng.integers(-limit, limit, size, np.int32).view(np.uint32)


def masked_update(
    values: NDArray[np.uint32],
    layout: TensorLayout = LAYOUT,
    signing_key: Ed25519PrivateKey = SIGNING_KEY,
    piece: int = 7001,
    **fields: Any,
) -> bytes:
    """Return the object of a masked update of these quantised differences."""
    file = io.BytesIO()
    pieces = (np.array(values[start : start + piece]) for start in range(0, len(values), piece))
    write_masked(file, layout, pieces, replace(HEADER, **fields), signing_key)
    return file.getvalue()
