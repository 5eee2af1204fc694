"""Private clients that have nothing but a URL, a token and a profile: library and command line."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from federated_client import BadArgument, Federation
from federated_client.command_line import main
from federated_client.profiles import profile_path
from local.cloud import Cloud
from local.mask_keeper import running_mask_keeper
from tests.client.api_runtime import running_api
from tests.client.members import in_the_cloud, invited
from tests.secure.world import secure_settings

pytestmark = in_the_cloud


def test_private_clients_take_part_through_the_api(
    cloud: Cloud,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`private=True` is all that a loop changes; a command sends masked updates as well."""
    monkeypatch.setenv("FEDERATED_CLIENT_HOME", str(tmp_path / "profiles"))
    log = tmp_path / "keeper.log"
    with (
        running_mask_keeper(cloud, cloud.environment(), log=log) as keeper,
        running_api(cloud, tmp_path) as url,
    ):
        terms = secure_settings(
            keeper.public_key, queue=keeper.queue_url, clip_norm=64.0, scale=4096
        )
        _, tokens = invited(
            2,
            update_kind="differences",
            aggregator="unweighted_mean",
            requirement="all_clients",
            secure_aggregation=terms,
        )
        for number, token in enumerate(tokens):
            Federation.enroll(url, token, profile=f"p{number}")
            assert main(["key", "--profile", f"p{number}", "--json"]) == 0
            shown = json.loads(capsys.readouterr().out)["public_key"]
            federation = Federation(profile=f"p{number}", private=True)
            assert federation.public_key == shown
            keeper.register(uuid.UUID(str(federation.client.client_id)), shown)
        first = Federation(profile="p0", private=True)
        round_ = first.fetch()
        first.submit({"w": round_.weights["w"] + np.float32(0.5)}, num_examples=10)
        _push(tmp_path / "mine.safetensors", 1.0)
        assert first.wait(timeout=60, poll=0.2).number == 1
        assert np.allclose(first.fetch().weights["w"], 0.75, atol=1e-3)
    assert profile_path("p0").with_suffix(".keys").stat().st_mode & 0o077 == 0


def _push(path: Path, value: float) -> None:
    """Train by command: pull, change the file, push it masked."""
    assert main(["pull", "--profile", "p1", str(path)]) == 0
    weights: dict[str, Any] = safetensors.numpy.load_file(path)
    safetensors.numpy.save_file({"w": weights["w"] + np.float32(value)}, path)
    push = ["push", "--profile", "p1", "--num-examples", "5", str(path)]
    assert main(push) == 1  # The model takes masked updates only.
    assert main([*push, "--private"]) == 0


def test_only_a_private_client_has_keys(cloud: Cloud, tmp_path: Path) -> None:
    """The error of a client that does not mask its updates says how to."""
    from federated_client import Bucket

    plain = Federation(
        storage=Bucket(cloud.bucket, cloud.client("s3")), model_id=1, client_id=uuid.uuid4()
    )
    with pytest.raises(BadArgument, match="private=True"):
        _ = plain.public_key
    with pytest.raises(BadArgument, match="private=True"):
        plain.trust_keeper("ab" * 32)
