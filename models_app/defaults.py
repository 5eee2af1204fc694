"""Defaults of new federated models, for `manage.py create_model` and the console."""

from __future__ import annotations

from typing import Any, Final

#: Settings that differ from the fields' own defaults, which are those of the interface taken over.
NEW_MODEL: Final[dict[str, Any]] = {
    "aggregator": "weighted_mean",
    "server_optimizer": "none",
    "requirement": "all_clients",
}
