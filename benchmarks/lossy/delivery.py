"""Updates that a client delivers over a bad link, and what it took."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.lossy.proxy import Faults, Part, lossy_proxy

ROOT = Path(__file__).parents[2]

#: What the client's process inherits: nothing of AWS, and nothing of the aggregator.
INHERITED = ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """What was delivered, as the client and the proxy saw it.

    Parameters
    ----------
    updates : list of dict
        What the client knows of each update.
    number : int
        Of the latest aggregate.
    values : list of float
        The mean of each of its tensors.
    parts : mapping
        The attempts to send each part, by key and number.
    requests : mapping
        How many requests passed, and how many did not, by what happened.
    downloaded : int
        Bytes of weights that were sent to the client.
    seconds : float
    """

    updates: list[dict[str, Any]]
    number: int
    values: list[float]
    parts: Mapping[tuple[str, int], Part]
    requests: Mapping[str, int]
    downloaded: int
    seconds: float

    @property
    def received(self) -> int:
        """Bytes of parts that the proxy received."""
        return sum(part.received for part in self.parts.values())

    @property
    def lost(self) -> int:
        """Bytes of parts that did not reach storage."""
        return sum(part.lost for part in self.parts.values())

    @property
    def needed(self) -> int:
        """Bytes of the parts that are in storage, each counted once."""
        return sum(part.stored[0] for part in self.parts.values() if part.stored)

    @property
    def answers_lost(self) -> int:
        """How often storage had a part, and the client did not get the answer."""
        return sum(part.fates["lost after"] for part in self.parts.values())

    @property
    def sent_needlessly(self) -> int:
        """Bytes that were sent although storage had them."""
        return self.received - self.lost - self.needed


def deliver(
    url: str, token: str, folder: Path, *, updates: int, faults: Faults, **of_client: float
) -> Delivery:
    """Run a client in a process of its own, behind a lossy proxy.

    Parameters
    ----------
    url, token : str
    folder : Path
        For the client's profile.
    updates : int
    faults : Faults
    **of_client
        Options of `participant`, such as ``part_bytes``.
    """
    command = [sys.executable, "-m", "benchmarks.lossy.participant", url]
    for name, value in {"updates": updates, **of_client}.items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    began = time.monotonic()
    with lossy_proxy(faults) as (proxy, traffic):
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={
                **{name: os.environ[name] for name in INHERITED if name in os.environ},
                "PYTHONPATH": str(ROOT / "client" / "src"),
                "FEDERATED_CLIENT_HOME": str(folder),
                "FEDERATION_TOKEN": token,
                "http_proxy": proxy,
            },
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    return Delivery(
        **json.loads(done.stdout),
        parts=traffic.parts,
        requests=traffic.requests,
        downloaded=traffic.downloaded,
        seconds=time.monotonic() - began,
    )
