"""Which settings of a model allow secure aggregation."""

from __future__ import annotations

from aggregation.errors import RuleError
from aggregation.masks.settings import RULES, SecureAggregation
from aggregation.policies import Policy
from aggregation.round import SecureTerms
from models_app.models import FederatedModel


def secure_terms(model: FederatedModel) -> SecureTerms | None:
    """Return how the updates of a model are masked; None if they are not.

    Raises
    ------
    RuleError
        If the settings are not valid, or others of the model need to see single updates.
    """
    settings = SecureAggregation.from_json(model.secure_aggregation)
    if settings is None:
        return None
    if not settings.queue:
        raise RuleError("queue is missing: the URL of the mask keeper's queue")
    problem = _problem(model)
    if problem:
        raise RuleError(problem)
    weighted = model.rule().weighs_by_examples
    return SecureTerms(settings=settings, max_weight=(weighted and model.max_num_examples) or 1)


def _problem(model: FederatedModel) -> str:
    """Return the first setting that does not go with masked updates, as a sentence."""
    if model.aggregator not in RULES:
        return (
            f"{model.aggregator} needs to see single updates, and only their sum is revealed: use one of "
            f"{', '.join(RULES[:2])}"
        )
    if model.pre_aggregation:
        return "steps before the rule need to see single updates, and only their sum is revealed"
    if model.staleness:
        return "late updates cannot be discounted: only the sum of all updates is revealed"
    if model.freeze:
        return "tensors cannot be frozen in turn: what is masked must be the same in every round"
    if model.update_kind != FederatedModel.UpdateKind.DIFFERENCES:
        return "only differences are masked: create the model with update_kind differences"
    if model.rule().weighs_by_examples and model.max_num_examples is None:
        return "weights are masked with the updates: weighted_mean needs max_num_examples"
    if any(policy is Policy.MAX for _, policy in model.policies().pairs):
        return "the maximum of a tensor cannot be found: only the sum of the updates is revealed"
    if (model.max_functions or 1) > 1:
        return "one function does a round of masked updates: max_functions must be 1 or empty"
    return ""
