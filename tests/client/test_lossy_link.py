"""Uploads over a bad link, and uploads that are killed: what storage has is not sent again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.numpy

from benchmarks.lossy.delivery import INHERITED, ROOT, deliver
from benchmarks.lossy.proxy import Faults, lossy_proxy
from federated_client import Federation
from federated_client.command_line import main
from tests.client.members import constant, invited
from tests.factories import get

pytestmark = [
    pytest.mark.usefixtures("database", "cloud"),
    pytest.mark.parametrize("database", ["sqlite"], indirect=True),
]

MIB = 1 << 20
COMMAND = "federated_client.command_line"

#: Three parts of 5 MiB, of which the last one is smaller.
ELEMENTS = 12 * MIB // 4
PARTS = 3

#: With this seed, answers of storage are lost as well.
FAULTS = Faults(cuts=2, refused=0.1, lost=0.2, seed=0)


def test_a_bad_link_costs_only_what_was_lost(url: str, tmp_path: Path) -> None:
    """Each byte that storage received was sent once, and the client knows what became of its updates."""
    model, (token,) = invited(1, ELEMENTS)
    found = deliver(
        url, token, tmp_path, updates=2, faults=FAULTS, part_bytes=5 * MIB, pause=0.001, poll=0.1
    )
    assert len(found.parts) == 2 * PARTS
    assert [len(part.stored) for part in found.parts.values()] == [1] * 2 * PARTS
    assert found.requests["cut"] == 2 * FAULTS.cuts * PARTS
    assert found.requests["refused"]
    assert found.answers_lost
    assert found.received > found.needed
    assert found.sent_needlessly == 0
    aggregates = list(model.aggregates.order_by("number"))
    assert [(each["state"], each["aggregate"], each["weight"]) for each in found.updates] == [
        ("complete", aggregate.pk, 1.0) for aggregate in aggregates
    ]
    assert found.values == [2.0]
    sizes = [len(get(each["key"])) for each in found.updates]
    assert sum(sizes) == found.needed


def test_a_killed_push_continues(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A push that is killed once storage has its first part; the same command sends only the others."""
    _, (token,) = invited(1, ELEMENTS)
    Federation.enroll(url, token)
    assert main(["pull", str(tmp_path / "base.safetensors")]) == 0
    trained = tmp_path / "trained.safetensors"
    safetensors.numpy.save_file(constant(3.0, ELEMENTS), trained)
    with lossy_proxy(Faults(cuts=0, refused=0, lost=0)) as (proxy, traffic):
        record = traffic.record

        def kill_then_record(part: Any, fate: str, received: int, *, is_stored: bool) -> None:
            record(part, fate, received, is_stored=is_stored)
            if is_stored and len(traffic.parts) == 1:
                first.kill()
                first.wait()

        monkeypatch.setattr(traffic, "record", kill_then_record)
        first = push(trained, proxy)
        assert first.wait() == -9
        assert push(trained, proxy).wait() == 0
        assert [part.received for part in traffic.parts.values()] == [
            8 * MIB,
            trained.stat().st_size - 8 * MIB,
        ]


def push(path: Path, proxy: str) -> subprocess.Popen[bytes]:
    """Start the command in a process without AWS variables."""
    inherited = (*INHERITED, "FEDERATED_CLIENT_HOME")
    return subprocess.Popen(
        [sys.executable, "-m", COMMAND, "push", str(path), "--num-examples", "7"],
        env={
            **{name: os.environ[name] for name in inherited if name in os.environ},
            "PYTHONPATH": str(ROOT / "client" / "src"),
            "http_proxy": proxy,
        },
    )
