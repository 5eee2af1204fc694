"""What a new federated model is created with, by `manage.py create_model` and in the admin alike."""

from __future__ import annotations

from typing import Any, Final

#: Settings that differ from the fields' own defaults, which are those of the interface taken over.
NEW_MODEL: Final[dict[str, Any]] = {
    "aggregator": "weighted_mean",
    "requirement": "all_clients",
}
