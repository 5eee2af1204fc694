"""A client that delivers updates, one for each round: a process with a URL and a token, and nothing else.

It prints what it knows of its updates, as JSON. The token is in the variable FEDERATION_TOKEN.
"""

from __future__ import annotations

import json
import os
import sys
from argparse import ArgumentParser
from dataclasses import asdict

from federated_client import Federation, limits


def main() -> int:
    """Enroll, and take part in as many rounds as updates are to be delivered."""
    parser = ArgumentParser(prog="python -m benchmarks.lossy.participant")
    parser.add_argument("url")
    parser.add_argument("--updates", type=int, required=True)
    parser.add_argument("--part-bytes", type=int, default=limits.PART_BYTES)
    parser.add_argument("--pause", type=float, default=limits.FIRST_PAUSE_SECONDS)
    parser.add_argument("--poll", type=float, default=0.5)
    options = parser.parse_args()
    limits.PART_BYTES, limits.FIRST_PAUSE_SECONDS = options.part_bytes, options.pause
    federation = Federation.enroll(options.url, os.environ["FEDERATION_TOKEN"])
    keys: list[str] = []
    for round_ in federation.rounds(options.updates, poll=options.poll):
        print(f"update {len(keys) + 1} of {options.updates}", file=sys.stderr, flush=True)
        trained = {name: array + 1 for name, array in round_.weights.items()}
        keys.append(federation.submit(trained, num_examples=100))
    last = federation.wait(poll=options.poll)
    known = [federation.update(key) for key in keys]
    values = [float(array.mean()) for array in federation.fetch().weights.values()]
    print(
        json.dumps(
            {
                "updates": [asdict(each) for each in known if each],
                "number": last.number,
                "values": values,
            }
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
