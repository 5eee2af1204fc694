"""Differential privacy of federated models: what it can be combined with, and what it has spent."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.db.models import OuterRef, QuerySet, Subquery, Sum
from django.db.models.functions import Coalesce

from aggregation.errors import RuleError

if TYPE_CHECKING:
    from aggregation.privacy.settings import DifferentialPrivacy
    from models_app.models import AggregationRound, FederatedModel

#: The account is kept in whole units of this share of mu squared, so that what is reserved and what is
#: returned cancel exactly. A charge is rounded up, by less than 4e-9 of the smallest one.
UNIT = 2.0**-48


def privacy_of(value: Any) -> DifferentialPrivacy | None:
    """Return the settings that a JSON value holds; None if it is None.

    Raises
    ------
    RuleError
    """
    if value is None:
        return None
    # Imported where a model is private, and nowhere else.
    from aggregation.privacy.settings import create_differential_privacy

    found = create_differential_privacy(value)
    if found is None:
        raise RuleError(
            "differential_privacy is an empty object: give its settings, or null for none"
        )
    return found


def privacy_problem(model: FederatedModel) -> str | None:
    """Return what is wrong with the model's differential privacy, also beside its other settings."""
    try:
        private = privacy_of(model.differential_privacy)
    except RuleError as error:
        return str(error)
    if private is None:
        return _removal_problem(model)
    return _combination_problem(model, private) or _history_problem(model)


def _combination_problem(model: FederatedModel, private: DifferentialPrivacy) -> str | None:
    from aggregation.privacy.rule import private_mean

    if not settings.PRIVACY_KEY:
        return (
            "PRIVACY_KEY is not set, with which the seeds of the noise are encrypted: deploy with "
            "Privacy=on, or give the path of a key file"
        )
    try:
        private_mean(model.rule(), private, model.policies(), discounts=bool(model.staleness))
        check_masked_noise(model, private, 1)
    except RuleError as error:
        return str(error)
    return None


def check_masked_noise(model: FederatedModel, private: DifferentialPrivacy, elements: int) -> None:
    """Check that noise can be added to a sum of masked updates, if the model has them.

    Parameters
    ----------
    model : FederatedModel
    private : DifferentialPrivacy
    elements : int
        The number of masked elements; 1 if it is not known.

    Raises
    ------
    RuleError
    """
    secure = model.secure_terms()
    if secure is None:
        return
    from aggregation.round.noisy_mean import noise_factor

    noise_factor(private, secure.settings, elements)


def _history_problem(model: FederatedModel) -> str | None:
    """Return why an existing model cannot have differential privacy."""
    if not model.pk:
        return None
    if model.current_artifact_id is None:
        return "a private model needs initial weights: the differences from them are clipped"
    if has_spent(model):
        return None
    if model.rounds.filter(finished_on=None).exists():
        return "a round without noise is running: pause the model, and try again when it has ended"
    if model.aggregates.exists():
        return (
            "the model has aggregates without noise, which the account would not contain: create a new "
            "model from the latest one"
        )
    return None


def _removal_problem(model: FederatedModel) -> str | None:
    if model.pk and has_spent(model):
        return (
            "a model that has spent privacy stays private: an aggregate without noise would void its "
            "account; create a new model"
        )
    return None


# The account


def has_spent(model: FederatedModel) -> bool:
    """Return whether a round of the model was charged to its privacy account."""
    return model.rounds.filter(privacy_charge__gt=0).exists()


def units_of(mu_squared: float) -> int:
    """Return a charge in whole units, rounded up."""
    return math.ceil(mu_squared / UNIT)


def charge_of(private: DifferentialPrivacy) -> int:
    """Return what a round is charged, in units.

    The number of elements does not change it. It is checked when the settings are stored.
    """
    from aggregation.privacy.accounting import charge

    return units_of(charge(private, 1))


def spent_units(rounds: QuerySet[AggregationRound]) -> int:
    """Return what rounds have been charged, in units."""
    return int(rounds.filter(privacy_charge__gt=0).aggregate(sum=Sum("privacy_charge"))["sum"] or 0)


def spent_of(model: OuterRef) -> Coalesce:
    """Return what the finished rounds of a model have been charged, in units, as a subquery."""
    return Coalesce(Subquery(_sums(federated_model=model).values("sum")), 0)


def spent_by_model(models: Sequence[FederatedModel]) -> dict[int, int]:
    """Return what the finished rounds of private models have spent, in units; no statement for others."""
    private = [model.pk for model in models if model.differential_privacy is not None]
    if not private:
        return {}
    summed = _sums(federated_model__in=private)
    return {each["federated_model"]: int(each["sum"]) for each in summed}


def _sums(**chosen: Any) -> QuerySet[Any, Any]:
    """Return the sums of the charges of finished rounds, by model."""
    from models_app.models import AggregationRound

    charged = AggregationRound.objects.filter(
        privacy_charge__gt=0, finished_on__isnull=False, **chosen
    )
    return charged.order_by().values("federated_model").annotate(sum=Sum("privacy_charge"))


def epsilon_of(units: int, delta: float) -> float:
    """Return the epsilon of an account in units, at a delta."""
    from aggregation.privacy.accounting import epsilon

    return epsilon(units * UNIT, delta)


def public_privacy(private: dict[str, Any] | None, units: int) -> dict[str, Any] | None:
    """Return a model's settings with the epsilon that has been spent, as everybody may know them.

    Parameters
    ----------
    private : dict or None
        `FederatedModel.differential_privacy`; None for a model without noise.
    units : int
        What has been spent.
    """
    if private is None:
        return None
    from aggregation.privacy.settings import NEIGHBOURS

    return {**private, "epsilon": spent_epsilon(private, units), "neighbours": NEIGHBOURS}


def round_up(epsilon: float) -> float | None:
    """Return an epsilon with six digits after the point, rounded up; None if it is infinite."""
    return math.ceil(epsilon * 1e6) / 1e6 if math.isfinite(epsilon) else None


def spent_epsilon(private: dict[str, Any] | None, units: int) -> float | None:
    """Return the epsilon of a private model, rounded up; None for another model, or if it is infinite."""
    return None if private is None else round_up(epsilon_of(units, private["delta"]))


def in_words(private: dict[str, Any] | None, units: int) -> str:
    """Return what an account guarantees, in words; empty for a model without noise."""
    stated = public_privacy(private, units)
    if stated is None:
        return ""
    from aggregation.privacy.settings import MAX_EPSILON

    epsilon = stated["epsilon"]
    spent = f"above {MAX_EPSILON:g}" if epsilon is None else f"{epsilon:.4f}"
    return (
        f"epsilon {spent} of {stated['max_epsilon']:g} at delta {stated['delta']:g} "
        f"({stated['neighbours']})"
    )


def round_settings(kept: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of the noise in what a private round keeps, without those of the account."""
    return {name: value for name, value in kept.items() if name not in ("charge", "spent")}


def privacy_after(made_by: AggregationRound | None) -> dict[str, Any] | None:
    """Return the settings of a private round, its charge, and the epsilon of the model after it.

    Returns
    -------
    dict or None
        None for a round without noise.
    """
    if made_by is None or made_by.differential_privacy is None:
        return None
    spent = made_by.differential_privacy["spent"] + made_by.privacy_charge
    return {
        **(public_privacy(round_settings(made_by.differential_privacy), spent) or {}),
        "mu_squared": made_by.privacy_charge * UNIT,
        "mu_squared_in_all": spent * UNIT,
    }


def spent_after(made_by: AggregationRound | None) -> str:
    """Return in words what a private model has spent after a round; empty for a round without noise."""
    if made_by is None or made_by.differential_privacy is None:
        return ""
    kept = made_by.differential_privacy
    return in_words(kept, kept["spent"] + made_by.privacy_charge)


# Planning


def epsilon_of_rounds(noise_multiplier: float, delta: float, rounds: int) -> float | None:
    """Return the epsilon of rounds with the same noise, rounded up; None if it is infinite."""
    return round_up(epsilon_of(rounds * _charge_with(noise_multiplier), delta))


def least_noise(epsilon: float, delta: float, rounds: int) -> float | None:
    """Return the smallest noise multiplier, with four decimals, for an epsilon after some rounds.

    Returns
    -------
    float or None
        None if the largest multiplier is too small.
    """
    low, high = 100, 10_000_000  # 0.01 and 1000 are the limits of DifferentialPrivacy.
    if epsilon_of(rounds * _charge_with(high / 1e4), delta) > epsilon:
        return None
    while low < high:
        middle = (low + high) // 2
        if epsilon_of(rounds * _charge_with(middle / 1e4), delta) <= epsilon:
            high = middle
        else:
            low = middle + 1
    return high / 1e4


def _charge_with(noise_multiplier: float) -> int:
    """Return what a round with some noise is charged, in units."""
    from aggregation.privacy.settings import DifferentialPrivacy

    private = DifferentialPrivacy(
        clip_norm=1.0, noise_multiplier=noise_multiplier, cohort=1, delta=1e-5, max_epsilon=1.0
    )
    return charge_of(private)
