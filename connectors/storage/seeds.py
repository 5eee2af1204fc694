"""The seeds of noise, which are stored encrypted only.

A seed is encrypted with AES-256-GCM by a data key of its model. The data key is an object of its own, which
is written once and is encrypted in turn by a key of the operator's:

- with a KMS key, S3 encrypts the object (SSE-KMS), and only who may use the KMS key can read it. The
  function calls S3 alone, so that it needs no interface endpoint for KMS;
- with a key file, the object is encrypted here, by AES-256-GCM.

Without the data key, all seeds of the model are lost, also those in copies of the database and the bucket.
See docs/decisions/2026-11-28-privacy-keys.md.
"""

from __future__ import annotations

import base64
import binascii
import os
import secrets
from hashlib import sha256
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from aggregation.errors import AggregationError, ObjectMissing
from connectors.errors import ServiceRefused
from connectors.storage.keys import seed_key
from connectors.storage.port import Objects, PreconditionFailed

#: Bytes of a seed and of a key: 256 bits.
KEY_BYTES = 32

#: Bytes of AES-GCM's nonce, which is drawn for each encryption.
NONCE_BYTES = 12

#: Bytes of the digest by which an encrypted seed names its data key.
NAME_BYTES = 8


class SeedUnavailable(AggregationError):
    """A seed cannot be decrypted; the message says why."""


class SeedVault:
    """Encrypts and decrypts the seeds of private models.

    Parameters
    ----------
    objects : Objects
    operator_key : str
        The ARN of a KMS key, or the path of a file of `KEY_BYTES` random bytes. Without one, no seed can
        be encrypted or decrypted.
    """

    def __init__(self, objects: Objects, operator_key: str) -> None:
        self._objects = objects
        self._operator_key = operator_key
        self._data_keys: dict[int, bytes] = {}

    def draw(self, model_id: int) -> str:
        """Return a new random seed of a model, encrypted.

        Raises
        ------
        SeedUnavailable
            If the data key of the model can be neither read nor created.
        """
        try:
            key = self._data_key(model_id)
        except ObjectMissing:
            self._create(model_id)
            key = self._data_key(model_id)
        sealed = _encrypt(key, secrets.token_bytes(KEY_BYTES), f"seed of model {model_id}")
        return base64.b64encode(_name(key) + sealed).decode()

    def open(self, model_id: int, sealed: str) -> bytes:
        """Return a seed.

        Raises
        ------
        SeedUnavailable
            If its data key was destroyed, or cannot be read.
        """
        if not sealed:
            raise SeedUnavailable(f"the seeds of model {model_id} were destroyed")
        try:
            key = self._data_key(model_id)
        except ObjectMissing as error:
            raise SeedUnavailable(
                f"the seeds of model {model_id} were destroyed: {seed_key(model_id)} is gone"
            ) from error
        try:
            whole = base64.b64decode(sealed, validate=True)
        except binascii.Error as error:
            raise SeedUnavailable(f"a seed of model {model_id} is damaged") from error
        if whole[:NAME_BYTES] != _name(key):
            raise SeedUnavailable(
                f"the seed was encrypted with an earlier data key of model {model_id}, which was destroyed"
            )
        return _decrypt(key, whole[NAME_BYTES:], f"seed of model {model_id}")

    def can_open(self, model_id: int) -> bool:
        """Return whether the seeds of a model can be decrypted; False if none was drawn yet.

        Raises
        ------
        SeedUnavailable
            If there is a data key that cannot be read.
        """
        try:
            self._data_key(model_id)
        except ObjectMissing:
            return False
        return True

    def destroy(self, model_id: int) -> bool:
        """Delete the data key of a model, all its versions; return whether there was one."""
        self._data_keys.pop(model_id, None)
        return self._objects.erase(seed_key(model_id))

    def _data_key(self, model_id: int) -> bytes:
        """Return the data key of a model.

        Raises
        ------
        ObjectMissing
        SeedUnavailable
        """
        if model_id not in self._data_keys:
            try:
                stored = self._objects.read(seed_key(model_id))
            except ServiceRefused as error:
                raise SeedUnavailable(
                    f"the data key of model {model_id} cannot be read: {error}; PRIVACY_KEY must be the "
                    "key that it was encrypted with, and the function must be allowed to use it"
                ) from error
            self._data_keys[model_id] = self._unwrapped(model_id, stored)
        return self._data_keys[model_id]

    def _create(self, model_id: int) -> None:
        """Create the data key of a model, unless another process does at the same time."""
        key = secrets.token_bytes(KEY_BYTES)
        kms_key = self._operator_key if is_kms_key(self._operator_key) else ""
        try:
            self._objects.create(
                seed_key(model_id),
                key if kms_key else self._wrapped(model_id, key),
                kms_key=kms_key,
            )
        except PreconditionFailed:
            return
        except ServiceRefused as error:
            raise SeedUnavailable(
                f"the data key of model {model_id} cannot be created: {error}"
            ) from error

    def _wrapped(self, model_id: int, key: bytes) -> bytes:
        return _encrypt(self._file_key(), key, f"data key of model {model_id}")

    def _unwrapped(self, model_id: int, stored: bytes) -> bytes:
        if is_kms_key(self._operator_key):
            if len(stored) != KEY_BYTES:
                raise SeedUnavailable(
                    f"{seed_key(model_id)} was encrypted with a key file, and PRIVACY_KEY is a KMS key"
                )
            return stored
        return _decrypt(self._file_key(), stored, f"data key of model {model_id}")

    def _file_key(self) -> bytes:
        if not self._operator_key:
            raise SeedUnavailable(
                "PRIVACY_KEY is not set: the seeds of private models are encrypted with it"
            )
        return read_key_file(self._operator_key)


def is_kms_key(operator_key: str) -> bool:
    """Return whether an operator's key is the ARN of a KMS key."""
    return operator_key.startswith("arn:")


def read_key_file(path: str) -> bytes:
    """Return the key in a file.

    Raises
    ------
    SeedUnavailable
        If there is none, or others than its owner may read it.
    """
    try:
        key = Path(path).read_bytes()
        mode = Path(path).stat().st_mode
    except OSError as error:
        raise SeedUnavailable(f"PRIVACY_KEY: {path} cannot be read: {error.strerror}") from error
    if len(key) != KEY_BYTES:
        raise SeedUnavailable(
            f"PRIVACY_KEY: {path} has {len(key)} bytes, expected {KEY_BYTES} random ones: "
            f"openssl rand -out {path} {KEY_BYTES}"
        )
    if mode & 0o077:
        raise SeedUnavailable(f"PRIVACY_KEY: others may read {path}: chmod 600 {path}")
    return key


def create_key_file(path: Path) -> None:
    """Write a new key to a file that only its owner may read.

    Raises
    ------
    FileExistsError
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "wb") as file:
        file.write(secrets.token_bytes(KEY_BYTES))


def _name(key: bytes) -> bytes:
    return sha256(b"federated data key " + key).digest()[:NAME_BYTES]


def _encrypt(key: bytes, plain: bytes, purpose: str) -> bytes:
    nonce = secrets.token_bytes(NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, plain, purpose.encode())


def _decrypt(key: bytes, sealed: bytes, purpose: str) -> bytes:
    try:
        return AESGCM(key).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], purpose.encode())
    except (InvalidTag, ValueError) as error:
        raise SeedUnavailable(
            f"the {purpose} cannot be decrypted: it is damaged, or PRIVACY_KEY is another key than it "
            "was encrypted with"
        ) from error
