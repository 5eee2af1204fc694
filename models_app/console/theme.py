"""Settings of the theme. Its colours are in the stylesheet: the pages allow no styles of their own."""

from __future__ import annotations

from typing import Any, Final

UNFOLD: Final[dict[str, Any]] = {
    "SITE_TITLE": "Federated aggregator",
    "SITE_HEADER": "Federated aggregator",
    "COLORS": {},
}
