"""The settings of secure aggregation, which the operator chooses and the clients read."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import Any

import numpy as np

from ..errors import RuleError
from ..layout import Tensor, TensorLayout, is_integral
from ..policies import Policy, TensorPolicies

#: The dtype of masked tensors.
MASKED = np.dtype("<u4")

#: Sums of quantised updates are below this in absolute value.
MODULUS_HALF = 1 << 31

#: The rules for which a sum of the updates suffices.
RULES = ("weighted_mean", "unweighted_mean", "average_layers", "avg_values_if_data")

_KEY = re.compile(r"[0-9a-f]{64}")
_URL = re.compile(r"(https?://[!-~]+)?")


@dataclass(frozen=True, kw_only=True)
class SecureAggregation:
    """How the updates of a model are masked.

    Parameters
    ----------
    keeper : str
        The public key of the mask keeper (X25519), 64 hexadecimal digits.
    clip_norm : float
        The Euclidean norm to which clients clip their differences.
    scale : int
        Units of the quantised differences in 1.0.
    min_cohort : int
        The fewest updates of a sum, at least 2. The mask keeper has a minimum of its own.
    max_cohort : int
        The most updates of a round; their sum cannot leave the 32 bits of an element.
    valid_days : int
        Days for which an update can be part of a sum.
    queue : str
        The URL of the mask keeper's queue. It is not published.

    Raises
    ------
    RuleError
        If a value is out of range, or the sum of ``max_cohort`` updates might need more than 32 bits.
    """

    keeper: str
    clip_norm: float
    scale: int = 1 << 16
    min_cohort: int = 3
    max_cohort: int = 1000
    valid_days: int = 7
    queue: str = ""

    def __post_init__(self) -> None:
        if not (isinstance(self.keeper, str) and _KEY.fullmatch(self.keeper)):
            raise RuleError("keeper must be the mask keeper's public key, 64 hexadecimal digits")
        if not (_is_number(self.clip_norm) and 0 < self.clip_norm < math.inf):
            raise RuleError(f"clip_norm is {self.clip_norm!r:.40}, expected a positive number")
        bounds = {"scale": 1, "min_cohort": 2, "max_cohort": 2, "valid_days": 1}
        for name, least in bounds.items():
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise RuleError(f"{name} is {value!r:.40}, expected a whole number from {least}")
        if self.valid_days > 30:
            raise RuleError(f"valid_days is {self.valid_days}, expected at most 30")
        if not (isinstance(self.queue, str) and _URL.fullmatch(self.queue)):
            raise RuleError("queue must be a URL that begins with https:// or http://")
        if self.min_cohort > self.max_cohort:
            raise RuleError("min_cohort must not be larger than max_cohort")
        if self.clip_norm * self.scale * self.max_cohort >= MODULUS_HALF - self.max_cohort:
            most = int(MODULUS_HALF / (self.clip_norm * self.max_cohort)) - 1
            raise RuleError(
                f"the sum of {self.max_cohort} updates of norm {self.clip_norm} may need more than 32 "
                f"bits at scale {self.scale}: use a scale of at most {max(most, 0)}, or lower clip_norm "
                "or max_cohort"
            )

    @classmethod
    def from_json(cls, found: Any) -> SecureAggregation | None:
        """Return the settings that JSON holds; None for an empty object, which switches it off.

        Raises
        ------
        RuleError
        """
        if not isinstance(found, Mapping):
            raise RuleError(f"secure_aggregation must be an object of settings; got {found!r:.80}")
        if not found:
            return None
        known = {field.name for field in fields(cls)}
        unknown = [name for name in found if name not in known]
        missing = [name for name in ("keeper", "clip_norm") if name not in found]
        if unknown or missing:
            raise RuleError(
                f"secure_aggregation needs keeper and clip_norm, and knows {', '.join(sorted(known))}; "
                f"got {', '.join(map(str, found))!s:.200}"
            )
        return cls(**found)

    def to_json(self) -> dict[str, Any]:
        """Return the settings as JSON-able data."""
        return asdict(self)

    def published(self) -> dict[str, Any]:
        """Return what clients read of the settings."""
        return {name: value for name, value in self.to_json().items() if name != "queue"}

    @property
    def limit(self) -> int:
        """The largest absolute value of a quantised element."""
        return math.ceil(self.clip_norm * self.scale)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def masked_layout(layout: TensorLayout, policies: TensorPolicies) -> TensorLayout:
    """Return the layout of a model's masked updates.

    They hold the floating-point tensors that the rule combines, unless they are empty. The others keep the
    values of the parent, and clients do not send them.
    """
    return TensorLayout(
        tuple(
            Tensor(tensor.name, MASKED, tensor.shape)
            for tensor in layout.tensors
            if tensor.size
            and not is_integral(tensor.dtype)
            and policies.of(tensor.name, tensor.dtype) in (Policy.OPTIMIZE, Policy.AVERAGE)
        )
    )


@lru_cache(maxsize=4)
def layout_digest(layout: TensorLayout) -> str:
    """Return the digest of the names, shapes and order of a layout's tensors."""
    listed = [[tensor.name, list(tensor.shape)] for tensor in layout.tensors]
    return hashlib.sha256(json.dumps(listed, separators=(",", ":")).encode()).hexdigest()
