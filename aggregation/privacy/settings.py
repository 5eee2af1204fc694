"""The differential privacy that a federated model asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from aggregation.arguments import instantiate, number, whole_number

#: The largest epsilon that may be allowed: e**50 is no protection, and the account is exact below it.
MAX_EPSILON = 50.0

#: Said wherever an epsilon is shown.
NEIGHBOURS = "for adding or removing one client"


@dataclass(frozen=True, kw_only=True)
class DifferentialPrivacy:
    """What each round of a federated model guarantees to each client.

    Parameters
    ----------
    clip_norm : float
        The Euclidean norm that the difference of an update from the parent is shortened to, over all
        optimized tensors together.
    noise_multiplier : float
        Standard deviation of the noise, in units of ``clip_norm``. The noise of the aggregate has the
        standard deviation ``noise_multiplier * clip_norm / cohort``.
    cohort : int
        What the sum of the differences is divided by, however many updates a round has: the number of
        clients that are expected.
    delta : float
        The guarantee is (epsilon, delta)-differential privacy. It should be far below one divided by the
        number of clients.
    max_epsilon : float
        A round that would raise the epsilon of all rounds above it is refused.
    """

    clip_norm: float
    noise_multiplier: float
    cohort: int
    delta: float
    max_epsilon: float

    def __post_init__(self) -> None:
        number("clip_norm", self.clip_norm, at_least=1e-12, at_most=1e12)
        number("noise_multiplier", self.noise_multiplier, at_least=0.01, at_most=1000.0)
        whole_number("cohort", self.cohort, at_least=1)
        number("cohort", self.cohort, at_most=2**31)
        number("delta", self.delta, at_least=1e-12, at_most=0.1)
        number("max_epsilon", self.max_epsilon, above=0.0, at_most=MAX_EPSILON)

    def to_json(self) -> dict[str, Any]:
        """Return the settings as JSON-able data."""
        return asdict(self)


def create_differential_privacy(
    arguments: Mapping[str, Any] | None,
) -> DifferentialPrivacy | None:
    """Return the settings of these arguments; None without arguments.

    Raises
    ------
    RuleError
        If an argument is unknown, missing or out of range. The message says what is expected.
    """
    if arguments is None or arguments == {}:
        return None
    return instantiate(DifferentialPrivacy, "differential_privacy", arguments)
