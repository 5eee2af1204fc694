"""Seeds are stored encrypted only: by a key file in a directory or bucket, or by a KMS key in a bucket."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from connectors.errors import ServiceRefused
from connectors.storage.filesystem import FileObjects
from connectors.storage.keys import seed_key
from connectors.storage.port import Objects, PreconditionFailed
from connectors.storage.s3 import S3Objects
from connectors.storage.seeds import SeedUnavailable, SeedVault, create_key_file
from tests.private_models import KMS_KEY

_models = itertools.count(10_000)

NewVault = Callable[[], SeedVault]


@pytest.fixture(params=["file in a directory", "file in a bucket", "KMS key"])
def new_vault(request: pytest.FixtureRequest, tmp_path: Path, objects: S3Objects) -> NewVault:
    """Return a function that creates a vault as another process does."""
    if request.param == "KMS key":
        return lambda: SeedVault(objects, KMS_KEY)
    create_key_file(tmp_path / "privacy.key")
    stored: Objects = FileObjects(tmp_path) if "directory" in request.param else objects
    return lambda: SeedVault(stored, str(tmp_path / "privacy.key"))


@pytest.fixture
def model_id() -> int:
    return next(_models)


def test_a_seed_is_decrypted_by_another_process(new_vault: NewVault, model_id: int) -> None:
    """Every seed is new, has 256 bits, and is what another process decrypts."""
    sealed = [new_vault().draw(model_id) for _ in range(3)]
    seeds = [new_vault().open(model_id, each) for each in sealed]
    assert {len(seed) for seed in seeds} == {32}
    assert len(set(seeds)) == 3
    for seed, each in zip(seeds, sealed, strict=True):
        assert seed not in base64.b64decode(each)


def test_a_seed_belongs_to_its_model(new_vault: NewVault, model_id: int) -> None:
    """The seed of one model cannot be used as that of another."""
    sealed, other = new_vault().draw(model_id), next(_models)
    new_vault().draw(other)
    with pytest.raises(SeedUnavailable):
        new_vault().open(other, sealed)


def test_each_changed_bit_is_detected(new_vault: NewVault, model_id: int) -> None:
    """A seed that was changed in storage is refused."""
    vault = new_vault()
    whole = base64.b64decode(vault.draw(model_id))
    for position in range(len(whole)):
        changed = bytearray(whole)
        changed[position] ^= 1
        with pytest.raises(SeedUnavailable):
            vault.open(model_id, base64.b64encode(changed).decode())
    for damaged in ("not base64!", "", base64.b64encode(whole[:20]).decode()):
        with pytest.raises(SeedUnavailable):
            vault.open(model_id, damaged)


def test_two_processes_create_one_key(
    new_vault: NewVault, model_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two processes that create the data key at the same time, both use the one that was stored."""
    first, second = new_vault(), new_vault()
    create = second._create
    sealed: list[str] = []

    def create_late(model_id: int) -> None:
        sealed.append(first.draw(model_id))
        create(model_id)

    monkeypatch.setattr(second, "_create", create_late)
    sealed.append(second.draw(model_id))
    assert len({new_vault().open(model_id, each) for each in sealed}) == 2


def test_s3_encrypts_the_data_key_with_the_kms_key(objects: S3Objects, model_id: int) -> None:
    """The object names the operator's KMS key, so that reading it needs a permission for the key."""
    SeedVault(objects, KMS_KEY).draw(model_id)
    head = objects.client.head_object(Bucket=objects.bucket, Key=seed_key(model_id))
    assert (head["ServerSideEncryption"], head["SSEKMSKeyId"]) == ("aws:kms", KMS_KEY)


def test_a_key_file_encrypts_the_data_key(
    objects: S3Objects, tmp_path: Path, model_id: int
) -> None:
    """What is stored of the data key decrypts no seed."""
    create_key_file(tmp_path / "privacy.key")
    vault = SeedVault(objects, str(tmp_path / "privacy.key"))
    sealed = vault.draw(model_id)
    assert len(objects.read(seed_key(model_id))) == 12 + 32 + 16
    create_key_file(tmp_path / "other.key")
    with pytest.raises(SeedUnavailable, match="PRIVACY_KEY is another key"):
        SeedVault(objects, str(tmp_path / "other.key")).open(model_id, sealed)


def test_a_wrong_key_is_explained(objects: S3Objects, tmp_path: Path, model_id: int) -> None:
    """A key that is missing, too short, readable by others or of another kind is named."""
    path = tmp_path / "privacy.key"
    with pytest.raises(SeedUnavailable, match="PRIVACY_KEY is not set"):
        SeedVault(objects, "").draw(model_id)
    with pytest.raises(SeedUnavailable, match="cannot be read"):
        SeedVault(objects, str(path)).draw(model_id)
    path.write_bytes(b"short")
    with pytest.raises(SeedUnavailable, match="openssl rand"):
        SeedVault(objects, str(path)).draw(model_id)
    path.write_bytes(bytes(32))
    path.chmod(0o644)
    with pytest.raises(SeedUnavailable, match="chmod 600"):
        SeedVault(objects, str(path)).draw(model_id)
    path.chmod(0o600)
    SeedVault(objects, str(path)).draw(model_id)
    with pytest.raises(SeedUnavailable, match="encrypted with a key file"):
        SeedVault(objects, KMS_KEY).draw(model_id)


def test_a_directory_takes_no_kms_key(tmp_path: Path) -> None:
    """SSE-KMS needs S3."""
    with pytest.raises(SeedUnavailable, match="PRIVACY_KEY must be the path of a file"):
        SeedVault(FileObjects(tmp_path), KMS_KEY).draw(1)


def test_an_object_is_created_once(objects: S3Objects, tmp_path: Path) -> None:
    """A second creation under one key is refused and changes nothing."""
    for stored in (objects, FileObjects(tmp_path)):
        stored.create("keys/once.key", b"first")
        with pytest.raises(PreconditionFailed):
            stored.create("keys/once.key", b"second")
        assert stored.read("keys/once.key") == b"first"
    with pytest.raises(ServiceRefused):
        FileObjects(tmp_path).create("keys/kms.key", b"", kms_key=KMS_KEY)
