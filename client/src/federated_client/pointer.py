"""``latest.json``: which weights to train from, and what the model makes of an update."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from fnmatch import fnmatchcase
from functools import cached_property, partial
from typing import Any

from . import limits
from ._core.errors import RuleError
from ._core.policies import TensorPolicies
from .errors import AccessDenied, BadDownload, CredentialsInvalid, NotThere
from .storage import Storage, visible

UPDATE_KINDS = ("weights", "differences")


@dataclass(frozen=True, kw_only=True)
class Latest:
    """The weights to train from.

    Parameters
    ----------
    aggregate_id : int or None
        None for the initial model.
    number : int
        The number of the round that made them; 0 for the initial model.
    key, etag : str
        Of the object.
    published_on : str
        ISO 8601.
    update_kind : {'weights', 'differences'}
        What an update of this model contains: trained weights, or what was added to the base.
    dtypes : sequence of str or None
        The dtypes of the model's tensors, such as ``BF16``.
    rule, rule_args : str and mapping or sequence, or None
        The aggregation rule.
    requirement, requirement_args : str and mapping or sequence, or None
        The condition under which a round starts.
    tensor_policies : sequence
        Pairs of a glob and a policy, of which the first match counts. Tensors whose policy is ``exclude``
        are not sent: they stay with each client.
    frozen : sequence of str
        Globs of the tensors that an update must leave as they are in these weights (`is_frozen`).
    max_num_examples : int or None
        An update counts at most this many examples.
    furthest_base_agg : int or None
        An update may be based on one of this many latest aggregates.
    max_update_bytes : int or None
        Larger updates are rejected.
    secure_aggregation : mapping or None
        How updates are masked, so that only their sum is revealed; None if they are not.
    """

    aggregate_id: int | None
    number: int
    key: str
    etag: str
    published_on: str
    update_kind: str = "weights"
    dtypes: Sequence[str] | None = None
    rule: str | None = None
    rule_args: Mapping[str, Any] | Sequence[Any] | None = None
    requirement: str | None = None
    requirement_args: Mapping[str, Any] | Sequence[Any] | None = None
    tensor_policies: Sequence[Any] = ()
    frozen: Sequence[str] = ()
    max_num_examples: int | None = None
    furthest_base_agg: int | None = None
    max_update_bytes: int | None = None
    secure_aggregation: Mapping[str, Any] | None = None

    @cached_property
    def policies(self) -> TensorPolicies:
        """What a round does with the tensors of an update."""
        return TensorPolicies.from_list(self.tensor_policies, self.frozen)

    def is_frozen(self, name: str) -> bool:
        """Return whether an update must leave a tensor as it is in these weights: do not train it."""
        return any(fnmatchcase(name, glob) for glob in self.frozen)


def read_pointer(storage: Storage, model_id: int, attempts: int) -> Latest:
    """Return the content of a model's ``latest.json``."""
    key = f"aggregates/{model_id}/latest.json"
    try:
        return parse_pointer(storage.get(key, attempts=attempts), key)
    except NotThere as error:
        raise NotThere(
            f"model {model_id} has no weights to train from: either there is no such model, or its "
            "first round starts from the clients' own weights"
        ) from error
    except CredentialsInvalid:
        raise
    except AccessDenied as error:
        raise AccessDenied(
            f"{error}. S3 also answers this if the model has no weights yet, to clients that may not "
            "list the bucket"
        ) from error


def visible_pointer(storage: Storage, model_id: int) -> Latest | None:
    """Return the latest weights; None where the model has none, or they cannot be seen."""
    return visible(partial(read_pointer, storage, model_id, limits.ATTEMPTS))


def parse_pointer(body: bytes, key: str) -> Latest:
    """Return the content of ``latest.json``; fields that this version does not know are ignored.

    Raises
    ------
    BadDownload
        If it is not such a document, or the model takes updates of a kind that is not known here.
    """
    try:
        found = json.loads(body)
        latest = Latest(
            **{
                field.name: found[field.name]
                for field in fields(Latest)
                if field.default is MISSING or found.get(field.name) is not None
            }
        )
        if type(latest.number) is not int or not isinstance(latest.key, str):
            raise TypeError("number and key must be a whole number and a string")
        if not all(isinstance(glob, str) for glob in latest.frozen):
            raise TypeError("frozen must be a list of strings")
        latest.policies  # noqa: B018 - Unknown policies are refused here.
    except (RuleError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadDownload(f"{key} is not a pointer to weights: {error!r}") from error
    if latest.update_kind not in UPDATE_KINDS:
        raise BadDownload(
            f"{key}: the model takes updates of kind {latest.update_kind!r}, and this version of the "
            f"client knows {' and '.join(UPDATE_KINDS)}"
        )
    return latest
