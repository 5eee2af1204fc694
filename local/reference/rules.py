"""The reference pages of rules, optimizers and requirements, generated from their classes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from aggregation.description import arguments_of, describe
from aggregation.optimizers import known_optimizers
from aggregation.pre_aggregation import known_pre_aggregations
from aggregation.requirements import Requirement
from aggregation.rules import known_rules
from local.reference.markdown import code, page, table


def rules_page() -> str:
    """Return the page of all rules in the registry."""
    rules = sorted(set(known_rules().values()), key=lambda rule: rule.name)
    return page(
        "Rules",
        "The values of a federated model's `aggregator`, with `aggregator_args` by name. An unknown name "
        "or argument, one out of range, or arguments that contradict each other are refused when the "
        "model is saved. [Choose a rule](../how-to/choose-a-rule.md) compares them; "
        "[Write a rule](../how-to/write-a-rule.md) shows how to add one.",
        "*n* is the number of updates in a round, *f* the number of hostile ones among them. A round "
        "waits until the rule has as many updates as it needs.",
        "What a rule withstands holds for the floating-point tensors whose "
        "[policy](../how-to/tensor-policies.md) is `optimize`, under any finite values of the hostile "
        "updates; distances and norms are taken over these tensors only.",
        *(part for rule in rules for part in _rule(rule)),
        "## Steps before the rule",
        "A federated model's `pre_aggregation` is a list of steps that are applied before its rule, in "
        'their order: `["arc(f=2)", "nnm(f=2)"]`. All steps are linear, so that they need no further pass '
        "over the updates; only before a rule that is not a weighted mean, such as the median, the rows "
        "are computed, at the cost of one addition for each update in a row. A step is refused if it is "
        "given twice, or if it only mixes updates before a rule that withstands no hostile one.",
        *(part for step in known_pre_aggregations().values() for part in _step(step)),
    )


def _step(step: Any) -> Iterator[str]:
    yield f"### {step.name}"
    yield describe(step)
    yield from _arguments(step)
    yield from _needs(step)
    if step.needs_seed:
        yield "Draws a secret seed for each round, which is stored with the round."


def _rule(rule: Any) -> Iterator[str]:
    yield f"## {rule.name}"
    if rule.aliases:
        yield "Also " + ", ".join(map(code, rule.aliases)) + "."
    yield describe(rule)
    yield from _arguments(rule)
    yield " ".join(_costs(rule))


def _costs(rule: Any) -> Iterator[str]:
    passes = "twice" if rule.needs_gram or rule.needs_norms else "once"
    yield f"Reads the updates {passes}."
    yield from _needs(rule)


def _needs(kind: Any) -> Iterator[str]:
    """Yield what a rule or a step measures, and whether it needs a parent."""
    if kind.needs_gram:
        yield "Measures the inner products of all pairs of updates."
    elif kind.needs_norms:
        yield "Measures the distance of each update from the previous aggregate."
    if kind.on_differences:
        yield "Needs a previous aggregate or an initial model."


def optimizers_page() -> str:
    """Return the page of all server optimizers."""
    return page(
        "Server optimizers",
        "The values of a federated model's `server_optimizer`, with `server_optimizer_args` by name. An "
        "unknown name or argument, or one out of range, is refused when the model is saved. "
        "[Choose a server optimizer](../how-to/choose-an-optimizer.md) compares them.",
        "The pseudo-gradient *D* is the rule's result minus the parent. The adaptive optimizers "
        "`fedadagrad`, `fedadam` and `fedyogi` are Algorithm 2 of Reddi et al., *Adaptive Federated "
        "Optimization*, arXiv 2003.00295. With `m = beta1 * m + (1 - beta1) * D`, and `v` as each of them "
        "says, the step is `eta * m / (sqrt(v) + tau)`. There is no bias correction. `m` starts at 0 and "
        "`v` at `tau` squared, the least that the algorithm permits.",
        "Steps are taken of floating-point tensors whose [policy](../how-to/tensor-policies.md) is "
        "`optimize`.",
        *(part for optimizer in known_optimizers().values() for part in _optimizer(optimizer)),
    )


def _optimizer(optimizer: Any) -> Iterator[str]:
    yield f"## {optimizer.name}"
    yield describe(optimizer)
    yield from _arguments(optimizer)
    slots = optimizer.slots
    if slots:
        numbers = "a float64" if slots == 1 else f"{slots} float64"
        yield f"Its state has {numbers} for each element of the tensors that it optimizes."


def requirements_page() -> str:
    """Return the page of all requirements."""
    kinds = [kind for kind in Requirement.__subclasses__() if kind.name]
    return page(
        "Requirements",
        "When a round of a model may start: its `requirement`, with `requirement_args` by name or by "
        "position. Without one, a single ready update is enough. Clients count, not uploads: a client that "
        "uploads three times counts once. The requirement is checked again if updates turn out to be "
        "unusable, before anything is published.",
        *(part for kind in kinds for part in _requirement(kind)),
    )


def _requirement(kind: Any) -> Iterator[str]:
    yield f"## {kind.name}"
    yield describe(kind)
    yield from _arguments(kind)


def _arguments(kind: Any) -> Iterator[str]:
    """Yield the table of the arguments, if there are some."""
    rows = []
    for each in arguments_of(kind):
        default = (
            "required" if each.is_required else "" if each.default is None else code(each.default)
        )
        rows.append([code(each.name), each.noun, default, each.bounds, each.meaning])
    if rows:
        yield table(["argument", "type", "default", "bounds", "meaning"], rows)
