"""The tensors of a model by their policies."""

from __future__ import annotations

import json
from collections import defaultdict
from io import StringIO
from typing import Any

from django.core.management import CommandError, call_command

from models_app.models import FederatedModel

#: Names that are shown for each policy.
SHOWN = 25


def tensors_by_policy(model: FederatedModel) -> dict[str, Any]:
    """Return which tensors each policy matches in the next round, or why that is not known.

    The command reads the header of the latest weights.
    """
    output = StringIO()
    try:
        call_command("tensors", str(model.pk), "--json", stdout=output, stderr=StringIO())
    except CommandError as error:
        return {"rows": [], "problem": str(error)}
    names = defaultdict(list)
    for row in json.loads(output.getvalue()):
        names[row["policy"]].append(row["tensor"])
    return {"rows": [_row(policy, found) for policy, found in sorted(names.items())]}


def _row(policy: str, names: list[str]) -> dict[str, Any]:
    more = len(names) - SHOWN
    shown = ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")
    return {"policy": policy, "count": len(names), "names": shown}
