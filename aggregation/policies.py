"""Tensor policies: what a round does with each tensor of the model.

A tensor is matched by its name. The policies of a model are an ordered list of pairs of a glob and a
policy, of which the first match counts; `DEFAULT_POLICIES` follow after them.

Globs are those of `fnmatch`: ``*`` matches any characters, separators included, ``?`` matches one, and
``[ab]`` matches one of these.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from fnmatch import translate
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from .errors import RuleError
from .layout import TensorLayout, is_integral


class Policy(StrEnum):
    """What a round does with a tensor."""

    #: The rule, and then the model's server optimizer.
    OPTIMIZE = "optimize"
    #: The rule only; under a robust rule, the coordinate-wise median.
    AVERAGE = "average"
    #: The elementwise maximum of the updates.
    MAX = "max"
    #: The parent's value, whatever the updates hold.
    KEEP = "keep"
    #: The parent's value; clients do not send the tensor.
    EXCLUDE = "exclude"
    #: The parent's value, which each update must hold as well (`aggregation.freeze.FreezeSchedule`).
    FROZEN = "frozen"


#: The policies that a model's list may name. `Policy.FROZEN` follows from a schedule.
CHOICES = tuple(policy for policy in Policy if policy is not Policy.FROZEN)

#: Running variances of BatchNorm: of torch, of Keras, and of Flax. They stay non-negative.
VARIANCES = (
    "*running_var",
    "*moving_variance",
    "*moving_variance:0",
    "*batch_stats[/.]*var",
)

#: The running statistics of BatchNorm. A step of an optimizer could make a variance negative.
DEFAULT_POLICIES: tuple[tuple[str, Policy], ...] = (
    *((glob, Policy.AVERAGE) for glob in VARIANCES),
    ("*running_mean", Policy.AVERAGE),
    ("*moving_mean", Policy.AVERAGE),
    ("*moving_mean:0", Policy.AVERAGE),
    ("*batch_stats[/.]*mean", Policy.AVERAGE),
    ("*num_batches_tracked", Policy.KEEP),
)

#: The most policies of a model, and the most characters of a glob: clients read all of them.
MAX_POLICIES = 100
MAX_GLOB = 200


@dataclass(frozen=True)
class TensorPolicies:
    """The policies of a model's tensors in one round.

    Parameters
    ----------
    pairs : tuple of (str, Policy)
        Globs and policies, in order. What no glob matches has the default: `DEFAULT_POLICIES`, then
        ``keep`` for integers and booleans, then ``optimize``. Booleans have no mean: they are kept also
        where a glob says ``optimize`` or ``average``.
    frozen : tuple of str
        Globs of the tensors that this round leaves as they are, unless they are kept or excluded.
    """

    pairs: tuple[tuple[str, Policy], ...] = ()
    frozen: tuple[str, ...] = ()

    @classmethod
    def from_list(cls, listed: Any, frozen: Iterable[str] = ()) -> TensorPolicies:
        """Return the policies of a list of (glob, policy) pairs, as JSON holds it.

        Raises
        ------
        RuleError
            If it is not such a list, or names an unknown policy.
        """
        if not isinstance(listed, list | tuple):
            raise RuleError(f"tensor_policies must be a list of [glob, policy]; got {listed!r:.80}")
        if len(listed) > MAX_POLICIES:
            raise RuleError(f"tensor_policies has {len(listed)} entries, at most {MAX_POLICIES}")
        return cls(tuple(_pair(each) for each in listed), tuple(frozen))

    def to_json(self) -> dict[str, Any]:
        """Return the policies as JSON-able data."""
        pairs = [[glob, policy.value] for glob, policy in self.pairs]
        return {"pairs": pairs, "frozen": list(self.frozen)}

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> TensorPolicies:
        """Return the policies that `to_json` gave."""
        return cls.from_list(saved["pairs"], saved["frozen"])

    @property
    def needs_parent(self) -> bool:
        """Whether a tensor may take its value from the parent only."""
        return bool(self.frozen) or any(policy is Policy.EXCLUDE for _, policy in self.pairs)

    def of(self, name: str, dtype: np.dtype[Any]) -> Policy:
        """Return the policy of a tensor."""
        policy = self._unfrozen(name, dtype)
        if policy not in (Policy.KEEP, Policy.EXCLUDE) and self._is_frozen(name):
            return Policy.FROZEN
        return policy

    def expected_layout(self, layout: TensorLayout | None) -> TensorLayout | None:
        """Return a model's layout with the tensors that clients do not send as optional ones."""
        if layout is None or not self.needs_parent:
            return layout
        excluded = self.names_of(Policy.EXCLUDE, layout)
        return replace(layout, optional=frozenset(excluded)) if excluded else layout

    def names_of(self, policy: Policy, layout: TensorLayout) -> tuple[str, ...]:
        """Return the names of a layout's tensors that have a policy."""
        return tuple(t.name for t in layout.tensors if self.of(t.name, t.dtype) is policy)

    def _unfrozen(self, name: str, dtype: np.dtype[Any]) -> Policy:
        match = self._pattern.match(name)
        default = Policy.KEEP if is_integral(dtype) else Policy.OPTIMIZE
        policy = self._listed[match.lastindex - 1] if match and match.lastindex else default
        if dtype == np.bool_ and policy in (Policy.OPTIMIZE, Policy.AVERAGE):
            return Policy.KEEP  # Booleans have no mean.
        return policy

    def _is_frozen(self, name: str) -> bool:
        return bool(self.frozen and self._frozen_pattern.match(name))

    @cached_property
    def _listed(self) -> list[Policy]:
        return [policy for _, policy in (*self.pairs, *DEFAULT_POLICIES)]

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return _any_of([glob for glob, _ in (*self.pairs, *DEFAULT_POLICIES)])

    @cached_property
    def _frozen_pattern(self) -> re.Pattern[str]:
        return _any_of(self.frozen)


#: The policies of a model that lists none.
DEFAULT = TensorPolicies()

#: All tensors are treated alike.
OPTIMIZE_ALL = TensorPolicies((("*", Policy.OPTIMIZE),))


def _pair(each: Any) -> tuple[str, Policy]:
    if not (isinstance(each, list | tuple) and len(each) == 2 and isinstance(each[0], str)):
        raise RuleError(f"each entry of tensor_policies must be [glob, policy]; got {each!r:.80}")
    glob, policy = each
    check_glob(glob)
    if not isinstance(policy, str) or policy not in CHOICES:
        known = ", ".join(CHOICES)
        raise RuleError(f"unknown tensor policy {policy!r:.80} for {glob!r:.80}; known are {known}")
    return glob, Policy(policy)


def check_glob(glob: Any) -> None:
    """Raise `RuleError` unless a value is a glob."""
    if not isinstance(glob, str) or not 1 <= len(glob) <= MAX_GLOB:
        raise RuleError(
            f"a glob in tensor_policies or freeze has 1 to {MAX_GLOB} characters; got {glob!r:.80}"
        )


def _any_of(globs: Sequence[str]) -> re.Pattern[str]:
    """Return a pattern with a group for each glob; ``lastindex`` of a match is the glob's number."""
    return re.compile("|".join(f"({translate(glob)})" for glob in globs))


_VARIANCES = _any_of(VARIANCES)


class Run(NamedTuple):
    """Elements ``start`` to ``stop`` of the flattened model, which share a dtype and a policy."""

    start: int
    stop: int
    dtype: np.dtype[Any]
    policy: Policy
    #: Whether the values are variances, which stay non-negative.
    non_negative: bool

    @property
    def is_measured(self) -> bool:
        """Whether the elements are part of norms and distances.

        An integer tensor is mostly a counter; its differences are larger by orders of magnitude than
        those of the weights.
        """
        return self.policy is Policy.OPTIMIZE and not is_integral(self.dtype)


class PolicyMap:
    """The policies of a layout's elements.

    Parameters
    ----------
    layout : TensorLayout
    policies : TensorPolicies
    """

    def __init__(self, layout: TensorLayout, policies: TensorPolicies) -> None:
        self.layout = layout
        self._policies = policies
        self.runs = tuple(_runs(layout, policies))

    @cached_property
    def optimized_names(self) -> frozenset[str]:
        """The names of the tensors that a server optimizer takes steps of: no integers are."""
        names = self._policies.names_of(Policy.OPTIMIZE, self.layout)
        return frozenset(n for n in names if not is_integral(self.layout.by_name[n].dtype))

    def runs_between(self, start: int, stop: int) -> Iterator[Run]:
        """Yield the parts of `runs` that lie in elements ``start`` to ``stop``."""
        first = bisect_right(self.runs, start, key=lambda run: run.stop)
        for run in self.runs[first:]:
            if run.start >= stop:
                return
            yield run._replace(start=max(run.start, start), stop=min(run.stop, stop))

    def has(self, *policies: Policy) -> bool:
        """Return whether a tensor with elements has one of the policies."""
        return any(run.policy in policies for run in self.runs)


def _runs(layout: TensorLayout, policies: TensorPolicies) -> Iterator[Run]:
    """Yield the maximal runs of a layout, in order."""
    last: Run | None = None
    for tensor, start in zip(layout.tensors, layout.starts, strict=False):
        if not tensor.size:
            continue
        policy = policies.of(tensor.name, tensor.dtype)
        non_negative = policy is Policy.AVERAGE and bool(_VARIANCES.match(tensor.name))
        run = Run(start, start + tensor.size, tensor.dtype, policy, non_negative)
        if last and last[2:] == run[2:]:
            last = last._replace(stop=run.stop)
            continue
        if last:
            yield last
        last = run
    if last:
        yield last
