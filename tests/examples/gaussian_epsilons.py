"""Print the epsilons that dp_accounting computes for the accounts on standard input, as JSON.

python -m tests.examples.gaussian_epsilons < accounts.json
"""

from __future__ import annotations

import json
import sys

import dp_accounting


def main() -> None:
    """Read pairs of mu squared and delta, and print an epsilon for each."""
    accounts = json.load(sys.stdin)
    found = [
        float(dp_accounting.get_epsilon_gaussian(mu_squared**-0.5, delta))
        for mu_squared, delta in accounts
    ]
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
