"""The privacy account of a model, in the transactions of its rounds.

A round is charged when it is claimed. The charge is taken back if the round ends before any result of it
could be read, and is added again for each further set of updates of which a result can be read. The account
of a model is the sum of the charges of its rounds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from aggregation.errors import AggregationError, Conflict
from aggregation.round import ResultSink
from connectors.rounds.selectors import ModelSnapshot
from connectors.storage.port import Objects
from models_app.models import AggregationRound, FederatedModel
from models_app.privacy import charge_of, epsilon_of, privacy_of, round_settings, spent_units

if TYPE_CHECKING:
    from aggregation.engine.parts import PartData
    from aggregation.privacy.rule import PrivateMean
    from aggregation.privacy.settings import DifferentialPrivacy
    from connectors.storage.seeds import SeedVault


class BudgetSpent(AggregationError):
    """A round would raise the epsilon of its model above the limit."""


@dataclass(frozen=True, kw_only=True)
class Noise:
    """The noise of a round that is about to be claimed.

    Parameters
    ----------
    settings : DifferentialPrivacy
    charge : int
        What the round adds to the account, in units.
    sealed_seed : str
    """

    settings: DifferentialPrivacy
    charge: int
    sealed_seed: str


class PrivateRounds:
    """Prepares the noise of private rounds, and decrypts their seeds.

    Parameters
    ----------
    objects : Objects
    operator_key : str
        As for `connectors.storage.seeds.SeedVault`.
    """

    def __init__(self, objects: Objects, operator_key: str) -> None:
        self._objects = objects
        self._operator_key = operator_key

    @cached_property
    def vault(self) -> SeedVault:
        """The seeds, which only private rounds need."""
        from connectors.storage.seeds import SeedVault

        return SeedVault(self._objects, self._operator_key)

    def prepare(self, snapshot: ModelSnapshot) -> Noise | None:
        """Draw the seed of a round that is about to be claimed; None if the model is not private.

        No transaction is open, since storage is asked.

        Raises
        ------
        SeedUnavailable
        """
        settings = privacy_of(snapshot.model.differential_privacy)
        if settings is None:
            return None
        return Noise(
            settings=settings,
            charge=charge_of(settings),
            sealed_seed=self.vault.draw(snapshot.model.pk),
        )


def reserve(model: FederatedModel, noise: Noise | None) -> dict[str, Any]:
    """Return the fields of a round that is charged to its model; the caller holds the lock of the model.

    Raises
    ------
    BudgetSpent
        If the round would exceed the model's limit.
    Conflict
        If the noise was prepared for other settings.
    """
    if noise is None or privacy_of(model.differential_privacy) != noise.settings:
        raise Conflict(f"the privacy settings of model {model.pk} were changed meanwhile")
    spent = spent_units(AggregationRound.objects.filter(federated_model=model))
    _check(noise.settings.max_epsilon, noise.settings.delta, spent + noise.charge)
    return {
        "differential_privacy": {
            **noise.settings.to_json(),
            "charge": noise.charge,
            "spent": spent,
        },
        "privacy_charge": noise.charge,
        "sealed_seed": noise.sealed_seed,
    }


def _check(max_epsilon: float, delta: float, units: int) -> None:
    from aggregation.privacy.settings import NEIGHBOURS

    epsilon = epsilon_of(units, delta)
    if epsilon > max_epsilon:
        raise BudgetSpent(
            f"the privacy budget is spent: another round would raise epsilon to {epsilon:.4f}, and "
            f"max_epsilon is {max_epsilon:g} (delta {delta:g}, {NEIGHBOURS})"
        )


def private_rule(round_: AggregationRound) -> PrivateMean | None:
    """Return the rule of a private round, without its noise; None if the round is not private."""
    kept = round_.differential_privacy
    if kept is None:
        return None
    from aggregation.privacy.rule import PrivateMean
    from aggregation.privacy.settings import DifferentialPrivacy

    return PrivateMean(DifferentialPrivacy(**round_settings(kept)))


def record_release(round_: AggregationRound, digest: str) -> None:
    """Record that a result of a set of updates is about to become readable.

    The caller holds the lock of the model. The first set is what the claim was charged for. Each further
    one, which lacks updates that were found bad later, has noise of its own and is charged again.

    Raises
    ------
    BudgetSpent
        If the further set would exceed the limit of the round's settings.
    """
    released = round_.privacy_released.split()
    if digest in released:
        return
    kept, charge = round_.differential_privacy, round_.privacy_charge
    if kept is None:
        raise ValueError(f"{round_} is not private")
    if released:
        charge += kept["charge"]
        _check(kept["max_epsilon"], kept["delta"], kept["spent"] + charge)
    AggregationRound.objects.filter(pk=round_.pk).update(
        privacy_released=" ".join([*released, digest]), privacy_charge=charge
    )


def check_noise(round_: AggregationRound) -> None:
    """Check that the result of a round has noise, if its model is private.

    Raises
    ------
    Conflict
        If the model has become private since the round was claimed.
    """
    if round_.federated_model.differential_privacy is None:
        return
    if round_.differential_privacy is None:
        raise Conflict(f"the model has become private since {round_} was claimed without noise")
    if not round_.privacy_released:
        raise ValueError(f"the result of {round_} was not counted as released")


def charge_after(round_: AggregationRound) -> dict[str, int]:
    """Return the change of the charge of a round that ends without an aggregate."""
    if round_.privacy_charge and not round_.privacy_released:
        return {"privacy_charge": 0}
    return {}


class CountedSink:
    """A sink whose object is counted as released before it becomes readable.

    Parameters
    ----------
    sink : ResultSink
    count : callable
        Counts the release; it raises an exception if the object must not become readable.
    """

    def __init__(self, sink: ResultSink, count: Callable[[], None]) -> None:
        self._sink = sink
        self._count = count

    @property
    def location(self) -> str:
        return self._sink.location

    def begin(self) -> dict[str, Any]:
        return self._sink.begin()

    def stored_parts(self) -> set[int]:
        return self._sink.stored_parts()

    def write_part(self, number: int, data: PartData, *, last: bool = False) -> None:
        # A single part that is known to be the last one would be readable at once.
        self._sink.write_part(number, data)

    def state(self) -> dict[str, Any]:
        return self._sink.state()

    def complete(self) -> None:
        self._count()
        self._sink.complete()

    def abort(self) -> None:
        self._sink.abort()
