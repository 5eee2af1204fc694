"""The signed message of a masked update, and the seed that is sealed for the mask keeper.

A message has a header, the client's signature of it (Ed25519), and the sealed seed. The header is canonical
JSON: a message that is encoded in another way is refused. The seed is sealed with a key that an ephemeral
X25519 key and that of the mask keeper agree on. The header is authenticated with it, so that a seed cannot
be sent under another header.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from ..errors import UpdateRejected
from .masking import SEED_BYTES, commitment_of, derive

VERSION = 1

#: What a signature covers begins with this, so that it is valid for nothing else.
_DOMAIN = b"serverless-federated-aggregator masked update\n"

#: A key that encrypts one seed needs no other nonce.
_NONCE = bytes(12)

_TAG_BYTES = 16
_DIGEST = re.compile(r"[0-9a-f]{64}")
_SIGNATURE = re.compile(r"[0-9a-f]{128}")
_SEALED = re.compile(rf"[0-9a-f]{{{2 * (32 + SEED_BYTES + _TAG_BYTES)}}}")

#: No number in a header is larger.
_MAX_NUMBER = 1 << 62


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a client signs.

    Parameters
    ----------
    model : int
        The id of the federated model.
    base : int
        The id of the aggregate that the update was trained from; 0 for the initial model.
    expires : int
        Seconds since 1970 after which the update must not be part of a sum.
    client : str
        The client's id.
    keeper : str
        The public key of the mask keeper for which the seed is sealed.
    scale, limit : int
        Units of the integers in 1.0, and their largest absolute value.
    weight, max_weight : int
        The update was multiplied by their quotient before it was quantised.
    elements : int
    layout, tensors, commitment : str
        Digests of the layout and of the masked tensors, and the commitment to the seed.
    """

    model: int
    base: int
    expires: int
    client: str
    keeper: str
    scale: int
    limit: int
    weight: int
    max_weight: int
    elements: int
    layout: str
    tensors: str
    commitment: str
    version: int = VERSION

    def encode(self) -> str:
        """Return the canonical text of the header."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))

    @classmethod
    def decode(cls, text: str) -> Header:
        """Return the header that a text contains.

        Raises
        ------
        UpdateRejected
            If it is not the canonical text of a header.
        """
        try:
            found = json.loads(text)
            header = cls(**found)
        except (ValueError, TypeError, RecursionError) as error:
            raise UpdateRejected("the header of the masked update is not one") from error
        problem = header._problem()
        if problem:
            raise UpdateRejected(f"the header of the masked update: {problem}")
        if header.encode() != text:
            raise UpdateRejected("the header of the masked update is not in its canonical form")
        return header

    def _problem(self) -> str:
        """Return the first field that is malformed, as a sentence."""
        digests = ("keeper", "layout", "tensors", "commitment")
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in digests:
                if not (isinstance(value, str) and _DIGEST.fullmatch(value)):
                    return f"{field.name} must be 64 hexadecimal digits"
            elif field.name == "client":
                if not _is_uuid(value):
                    return "client must be a UUID"
            elif type(value) is not int or not 0 <= value < _MAX_NUMBER:
                return f"{field.name} must be a whole number"
        if self.version != VERSION:
            return f"version {self.version} is not known, expected {VERSION}"
        if not 1 <= self.weight <= self.max_weight:
            return "weight must be between 1 and max_weight"
        return ""


@dataclass(frozen=True, kw_only=True)
class Message:
    """A header with its signature and the sealed seed, as text: it is passed on unchanged."""

    header: str
    signature: str
    sealed: str

    @classmethod
    def from_mapping(cls, found: Mapping[str, Any]) -> Message:
        """Return the message that is part of an object's metadata, or of a request.

        Raises
        ------
        UpdateRejected
            If a part is missing or malformed.
        """
        header, signature, sealed = (found.get(name) for name in ("header", "signature", "sealed"))
        if not (isinstance(header, str) and isinstance(signature, str) and isinstance(sealed, str)):
            raise UpdateRejected("the update is not masked: header, signature or sealed is missing")
        if not (_SIGNATURE.fullmatch(signature) and _SEALED.fullmatch(sealed)):
            raise UpdateRejected(
                "the signature or the sealed seed of the masked update is malformed"
            )
        return cls(header=header, signature=signature, sealed=sealed)

    def to_mapping(self) -> dict[str, str]:
        """Return the parts by name."""
        return asdict(self)


def _is_uuid(value: Any) -> bool:
    try:
        return isinstance(value, str) and str(uuid.UUID(value)) == value
    except ValueError:
        return False


def new_message(header: Header, seed: bytes, signing_key: Ed25519PrivateKey) -> Message:
    """Sign a header, and seal the seed that it commits to for the mask keeper that it names."""
    text = header.encode()
    return Message(
        header=text,
        signature=signing_key.sign(_DOMAIN + text.encode()).hex(),
        sealed=seal(seed, bytes.fromhex(header.keeper), text.encode()).hex(),
    )


def check_signature(message: Message, public_key: bytes) -> None:
    """Raise `UpdateRejected` unless the client with this public key signed the header."""
    try:
        key = Ed25519PublicKey.from_public_bytes(public_key)
        key.verify(bytes.fromhex(message.signature), _DOMAIN + message.header.encode())
    except (InvalidSignature, ValueError) as error:
        raise UpdateRejected("the signature is not that of the registered client") from error


def open_seed(message: Message, header: Header, keeper: X25519PrivateKey) -> bytes:
    """Return the seed of a message.

    Raises
    ------
    UpdateRejected
        If it was not sealed for this key and under this header, or is not what the header commits to.
    """
    sealed, text = bytes.fromhex(message.sealed), message.header.encode()
    ephemeral = sealed[:32]
    own = keeper.public_key().public_bytes_raw()
    try:
        shared = keeper.exchange(X25519PublicKey.from_public_bytes(ephemeral))
        cipher = ChaCha20Poly1305(_sealing_key(shared, ephemeral, own))
        seed = cipher.decrypt(_NONCE, sealed[32:], text)
    except (InvalidTag, ValueError) as error:
        raise UpdateRejected("the seed is not sealed for this mask keeper and header") from error
    if commitment_of(seed) != header.commitment:
        raise UpdateRejected("the sealed seed is not the one that the header commits to")
    return seed


def seal(seed: bytes, keeper: bytes, header: bytes) -> bytes:
    """Return an ephemeral public key, and the seed encrypted for the mask keeper under a header."""
    ephemeral = X25519PrivateKey.generate()
    public = ephemeral.public_key().public_bytes_raw()
    shared = ephemeral.exchange(X25519PublicKey.from_public_bytes(keeper))
    key = _sealing_key(shared, public, keeper)
    return public + ChaCha20Poly1305(key).encrypt(_NONCE, seed, header)


def _sealing_key(shared: bytes, ephemeral: bytes, keeper: bytes) -> bytes:
    return derive(shared, f"sealed seed {ephemeral.hex()} {keeper.hex()}")
