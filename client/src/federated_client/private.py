"""Masked updates: what a client sends if only the sum of all updates may be seen.

The difference is clipped, quantised and masked here. Needs `cryptography`: ``pip install
serverless-federated-client[private]``.
"""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from . import limits
from ._core.errors import RuleError
from ._core.layout import TensorLayout
from ._core.masks.settings import SecureAggregation, masked_layout
from ._core.weights import Weights
from .errors import BadArgument
from .pointer import Latest
from .profiles import profile_path, write_private
from .weights import opened, result_file

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

logger = logging.getLogger(__name__)

_SECONDS_PER_DAY = 24 * 3600


@dataclass
class Identity:
    """The keys of a client that masks its updates.

    Parameters
    ----------
    path : Path
        The file in which they are kept.
    signing_key : str
        The private key (Ed25519), in hexadecimal digits.
    keepers : dict of str to str
        The public key of the mask keeper of each model, by the model's id. The first one that is seen is
        kept, and another one is refused.
    """

    path: Path
    signing_key: str = field(repr=False)
    keepers: dict[str, str] = field(default_factory=dict)

    @property
    def public_key(self) -> str:
        """The public key, which the mask keeper's operator registers."""
        return self.key().public_key().public_bytes_raw().hex()

    def key(self) -> Ed25519PrivateKey:
        """Return the private key."""
        key: Ed25519PrivateKey = _ed25519().from_private_bytes(bytes.fromhex(self.signing_key))
        return key

    def check_keeper(self, model_id: int, keeper: str) -> None:
        """Refuse another mask keeper than before: it could be the aggregator itself.

        Raises
        ------
        BadArgument
        """
        known = self.keepers.get(str(model_id))
        if known is None:
            logger.warning(
                "updates of model %d are masked for the mask keeper %s: compare this key with the one that "
                "its operator gave you",
                model_id,
                keeper,
            )
            self.trust(model_id, keeper)
        elif known != keeper:
            raise BadArgument(
                f"the model's mask keeper is now {keeper}, and it was {known}: ask the operator of the "
                "mask keeper, and if the change is right, call trust_keeper(key)"
            )

    def trust(self, model_id: int, keeper: str) -> None:
        """Keep the public key of a model's mask keeper."""
        self.keepers[str(model_id)] = keeper
        self.save()

    def save(self) -> None:
        """Write the keys, complete or not at all, readable by this user only."""
        kept = {name: value for name, value in asdict(self).items() if name != "path"}
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(self.path, json.dumps(kept, indent=1).encode())


def load_identity(profile: str) -> Identity:
    """Return the keys of a profile; they are made when they are needed for the first time.

    Raises
    ------
    BadArgument
        If the file is damaged, or `cryptography` is not installed.
    """
    path = profile_path(profile).with_suffix(".keys")
    try:
        found = json.loads(path.read_text())
        return Identity(path=path, signing_key=found["signing_key"], keepers=found["keepers"])
    except FileNotFoundError:
        return new_identity(path)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise BadArgument(f"the keys in {path} cannot be read: {error}") from error


def new_identity(path: Path) -> Identity:
    """Make the keys of a client, and save them in a file."""
    identity = Identity(path=path, signing_key=_ed25519().generate().private_bytes_raw().hex())
    identity.save()
    return identity


def _ed25519() -> Any:
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    except ImportError as error:
        raise BadArgument(
            "private updates need the package cryptography: pip install "
            "'serverless-federated-client[private]'"
        ) from error
    return Ed25519PrivateKey


@dataclass(frozen=True, kw_only=True)
class Masking:
    """What a masked update says of itself.

    Parameters
    ----------
    identity : Identity
    model_id : int
    client_id : uuid.UUID
    base_id : int
        The id of the aggregate that it was trained from; 0 for the initial model.
    num_examples : int
    """

    identity: Identity
    model_id: int
    client_id: uuid.UUID
    base_id: int
    num_examples: int


def check_privacy(masking: Masking | None, latest: Latest | None) -> SecureAggregation | None:
    """Return how an update is masked; None if neither the client nor the model wants it to be.

    Raises
    ------
    BadArgument
        If only one of them does.
    """
    secure = _settings_of(latest)
    if masking is None and secure is None:
        return None
    if masking is None:
        raise BadArgument("the model takes masked updates only: use Federation(..., private=True)")
    if secure is None:
        raise BadArgument(
            "the model does not mask updates, so that the aggregator would see this one: it was not sent"
        )
    masking.identity.check_keeper(masking.model_id, secure.keeper)
    return secure


def _settings_of(latest: Latest | None) -> SecureAggregation | None:
    if latest is None or not latest.secure_aggregation:
        return None
    try:
        return SecureAggregation.from_json(latest.secure_aggregation)
    except RuleError as error:
        raise BadArgument(f"how the model masks updates is not known here: {error}") from error


def masked_file(
    differences: BinaryIO,
    name: str,
    expected_layout: TensorLayout,
    latest: Latest,
    secure: SecureAggregation,
    masking: Masking,
) -> BinaryIO:
    """Return a temporary file with a difference that was clipped, quantised and masked.

    A megabyte of the difference is in memory at a time.

    Parameters
    ----------
    differences : binary file
    name : str
        Its extension is the format of the differences.
    expected_layout : TensorLayout
        The model's.
    latest : Latest
    secure : SecureAggregation
    masking : Masking

    Raises
    ------
    BadWeights
        If the model cannot have masked updates.
    """
    from ._core.masks.file import write_masked
    from ._core.masks.messages import Header

    masked = masked_layout(expected_layout, latest.policies)
    weighted = latest.rule == "weighted_mean"
    max_weight = (latest.max_num_examples or 1) if weighted else 1
    weight = min(masking.num_examples, max_weight)
    header = Header(
        model=masking.model_id,
        base=masking.base_id,
        expires=int(time.time()) + secure.valid_days * _SECONDS_PER_DAY,
        client=str(masking.client_id),
        keeper=secure.keeper,
        scale=secure.scale,
        limit=secure.limit,
        weight=weight,
        max_weight=max_weight,
        elements=masked.size,
        layout="",
        tensors="",
        commitment="",
    )
    with result_file() as result, opened(differences, name, expected_layout) as weights:
        share = _clipping(weights, expected_layout, masked, secure.clip_norm)
        factor = share * secure.scale * weight / max_weight
        pieces = _quantised(weights, expected_layout, masked, factor, secure.limit)
        write_masked(result, masked, pieces, header, masking.identity.key())
    return result


def _clipping(
    weights: Weights, layout: TensorLayout, masked: TensorLayout, clip_norm: float
) -> float:
    """Return the factor that makes the norm of the masked tensors at most ``clip_norm``."""
    total = 0.0
    for values in _pieces(weights, layout, masked):
        total += float(np.sum(np.square(values.astype(np.float64))))
    norm = float(np.sqrt(total))
    if norm <= clip_norm:
        return 1.0
    logger.info("the update's norm is %.4g: it is clipped to %.4g", norm, clip_norm)
    return clip_norm / norm


def _quantised(
    weights: Weights, layout: TensorLayout, masked: TensorLayout, factor: float, limit: int
) -> Iterator[NDArray[np.uint32]]:
    from ._core.masks.masking import quantised

    for values in _pieces(weights, layout, masked):
        yield quantised(values, factor, limit)


def _pieces(weights: Weights, layout: TensorLayout, masked: TensorLayout) -> Iterator[NDArray[Any]]:
    """Yield the elements that are masked, in the order of the model."""
    for tensor, start in zip(layout.tensors, layout.starts, strict=False):
        if tensor.name not in masked.by_name:
            continue
        for first in range(start, start + tensor.size, limits.CHECK_ELEMENTS):
            count = min(limits.CHECK_ELEMENTS, start + tensor.size - first)
            values = np.empty(count, tensor.dtype)
            weights.read_into(layout, layout.bytes_before(first), values.view(np.uint8).data)
            yield values
