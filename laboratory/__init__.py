"""The laboratory: try rules, optimizers and attacks on simulated clients, in one process.

The rounds are those of the function: the same code claims, rejects, combines and publishes. What was tried
becomes a federated model by `manage.py create_model --from`.
"""

from laboratory.attacks import ATTACKS, Scene
from laboratory.errors import BadArgument
from laboratory.history import History
from laboratory.records import ClientRecord, RoundRecord
from laboratory.simulation import simulate
from laboratory.updates import Update

__all__ = [
    "ATTACKS",
    "BadArgument",
    "ClientRecord",
    "History",
    "RoundRecord",
    "Scene",
    "Update",
    "simulate",
]
