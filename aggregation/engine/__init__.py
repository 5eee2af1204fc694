"""The chunk engine: combine any number of updates of any size into one aggregate, in flat memory."""

from aggregation.engine.combine import combine
from aggregation.engine.outcome import Checkpoint, Combined
from aggregation.engine.passes import Passes
from aggregation.engine.plan import DEFAULT_RESOURCES, Combination, Resources

__all__ = [
    "DEFAULT_RESOURCES",
    "Checkpoint",
    "Combination",
    "Combined",
    "Passes",
    "Resources",
    "combine",
]
