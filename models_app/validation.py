"""Which settings of a federated model are valid, alone and together."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from aggregation.errors import RuleError
from aggregation.freeze import FreezeSchedule
from aggregation.policies import TensorPolicies
from aggregation.pre_aggregation import create_steps
from aggregation.staleness import check_discountable
from models_app.privacy import privacy_problem
from models_app.schemas import SchemaError, compile_schema

if TYPE_CHECKING:
    from models_app.models import FederatedModel


def problems_of(model: FederatedModel) -> dict[str, str]:
    """Return what is wrong with the settings of a model, by the field that the message belongs to."""
    checks: dict[str, Callable[[], object]] = {
        "pre_aggregation": lambda: create_steps(model.pre_aggregation),
        "aggregator": model.rule,
        "server_optimizer": model.optimizer,
        "requirement": model.requirement_object,
        "staleness": model.staleness_object,
        "tensor_policies": lambda: _check_policies(model),
        "freeze": lambda: _check_schedule(model),
        "secure_aggregation": lambda: _check_secure_aggregation(model),
    }
    problems: dict[str, str] = {}
    for field, check in checks.items():
        if "pre_aggregation" in problems and field == "aggregator":
            continue
        try:
            check()
        except RuleError as error:
            problems[field] = str(error)
    if not problems and (problem := _staleness_problem(model)):
        problems["staleness"] = problem
    if not problems and (problem := privacy_problem(model)):
        problems["differential_privacy"] = problem
    try:
        compile_schema(model.client_agg_results_schema)
    except SchemaError as error:
        problems["client_agg_results_schema"] = str(error)
    return problems


def _check_policies(model: FederatedModel) -> None:
    if TensorPolicies.from_list(model.tensor_policies).needs_parent:
        _check_has_weights(model, "clients do not send the tensors that they exclude")


def _check_schedule(model: FederatedModel) -> None:
    schedule = FreezeSchedule.from_json(model.freeze)
    if schedule.alternates and model.furthest_base_agg != 1:
        raise RuleError(
            "tensors that are frozen in turn need furthest_base_agg=1: an update that is based on "
            "an older aggregate has trained the tensors that are frozen now"
        )
    if schedule != FreezeSchedule():
        if model.staleness:
            raise RuleError(
                "frozen tensors cannot be combined with staleness: a late update has trained other "
                "tensors"
            )
        _check_has_weights(model, "frozen tensors keep the values of the parent")


def _check_secure_aggregation(model: FederatedModel) -> None:
    if model.secure_terms():
        _check_has_weights(model, "clients send masked differences")


def _check_has_weights(model: FederatedModel, why: str) -> None:
    """Raise `RuleError` if the model has no weights to start from, and is not about to get some."""
    is_new = model.pk is None
    if is_new and model.initial_weights_follow:
        return
    if model.current_artifact_id is None and (is_new or not model.aggregates.exists()):
        raise RuleError(f"{why}: the model needs initial weights")


def _staleness_problem(model: FederatedModel) -> str | None:
    """Return why late updates of a model cannot be discounted."""
    if not model.staleness:
        return None
    if model.furthest_base_agg is None:
        return (
            "without furthest_base_agg, an update may be as old as it likes: say how many of the "
            "latest aggregates an update may be based on"
        )
    try:
        check_discountable(model.rule(), model.staleness_object())
    except RuleError as error:
        return str(error)
    return None
