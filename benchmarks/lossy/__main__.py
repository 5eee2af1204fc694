"""``python -m benchmarks.lossy``: deliver updates over a bad link, and write `lossy.md`."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from safetensors.numpy import save_file

from benchmarks.lossy.delivery import Delivery, deliver
from benchmarks.lossy.proxy import Faults
from benchmarks.measurements import MILLION
from benchmarks.report import Bar, table
from federated_client import limits
from local.cloud import embedded_cloud
from local.shell import in_shell, running_services

RESULTS = Path(__file__).parents[1] / "lossy.md"

#: What the requests that did not pass are called in the page.
OUTCOMES = {
    "passed": "answered by the server",
    "cut": "part cut at a random byte",
    "refused": "answered with 503",
    "lost before": "connection lost before the server had the request",
    "lost after": "connection lost in the server's answer",
}


def main() -> int:
    """Measure, and return 0 if the targets were met."""
    parser = ArgumentParser(prog="python -m benchmarks.lossy", description=__doc__)
    parser.add_argument("--updates", type=int, default=20)
    parser.add_argument("--megabytes", type=int, default=200, help="of an update")
    parser.add_argument("--seed", type=int, default=0, help="of what the proxy does")
    options = parser.parse_args()
    faults = Faults(seed=options.seed)
    with TemporaryDirectory(prefix="benchmarks-lossy-") as folder:
        if shutil.disk_usage(folder).free < 3 * options.updates * options.megabytes * MILLION:
            parser.error(f"{folder} is too small for the objects of {options.updates} rounds")
        delivery = measure(Path(folder), options.updates, options.megabytes, faults)
    text, met = report(delivery, options.updates, options.megabytes, faults)
    RESULTS.write_text(text)
    print(text)
    return 0 if met else 1


def measure(folder: Path, updates: int, megabytes: int, faults: Faults) -> Delivery:
    """Start the embedded cloud, create a model for one client, and let the client deliver."""
    with embedded_cloud() as cloud, running_services(cloud, folder) as environment:
        initial = folder / "initial.safetensors"
        save_file({"w": np.zeros(megabytes * MILLION // 4, np.float32)}, initial)
        _manage(environment, "create_model", "lossy", "--initial", str(initial))
        (invited,) = json.loads(_manage(environment, "invite", "lossy", "--json"))
        return deliver(
            environment["FEDERATION_URL"],
            invited["token"],
            folder / "client",
            updates=updates,
            faults=faults,
        )


def _manage(environment: Mapping[str, str], *arguments: str) -> str:
    command = [sys.executable, "manage.py", *arguments]
    done = subprocess.run(
        command, env=in_shell(environment), stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout


def report(delivery: Delivery, updates: int, megabytes: int, faults: Faults) -> tuple[str, bool]:
    """Return the page, and whether the targets were met."""
    complete = [each for each in delivery.updates if each["state"] == "complete"]
    twice = sum(len(part.stored) != 1 for part in delivery.parts.values())
    bars = [
        Bar("updates of which the client knows their aggregate", len(complete), updates),
        Bar("parts that were stored more than once, or not at all", twice, 0, at_least=False),
        Bar(
            "bytes that were sent beyond what was lost", delivery.sent_needlessly, 0, at_least=False
        ),
        Bar(
            "difference between the last aggregate and the sum of the updates",
            max(abs(value - updates) for value in delivery.values),
            0,
            at_least=False,
        ),
    ]
    text = "\n".join(
        [
            "# Updates over a bad link\n",
            "By `make bench-lossy`: a client process without AWS variables, with a URL and a token, "
            f"delivers {updates} updates of {megabytes} MB, one a round, in parts of "
            f"{limits.PART_BYTES >> 20} MiB. All its requests, to the API and to storage, go through a "
            f"proxy that cuts each part {faults.cuts} times at a random byte, answers 503 to "
            f"{faults.refused:.0%} of the other requests, and loses the connections of "
            f"{faults.lost:.0%} of them, half before the server has the request and half in its answer.\n",
            table(("", "figure", "target", ""), [bar.row() for bar in bars]),
            table(
                ("uploaded", "MB"),
                [
                    ("the updates", f"{delivery.needed / MILLION:.1f}"),
                    ("lost on the way", f"{delivery.lost / MILLION:.1f}"),
                    ("sent in all", f"{delivery.received / MILLION:.1f}"),
                ],
            ),
            table(
                ("requests", "count"),
                [
                    *((words, str(delivery.requests[kind])) for kind, words in OUTCOMES.items()),
                    ("in all", str(sum(delivery.requests.values()))),
                ],
            ),
            f"The updates have {len(delivery.parts)} parts; {delivery.answers_lost} times storage had a "
            f"part, and the client did not get the answer. {delivery.downloaded / MILLION:.1f} MB of "
            f"weights were sent to the client; the models that it fetched have "
            f"{(updates + 1) * megabytes} MB. The whole took {delivery.seconds:.0f} s on this machine, "
            "with moto as S3.",
        ]
    )
    return text + "\n", all(bar.met for bar in bars)


if __name__ == "__main__":
    sys.exit(main())
