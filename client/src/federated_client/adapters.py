"""Weights of the active adapter of a model of PEFT, which must be installed; its base is never sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from peft import get_peft_model_state_dict, set_peft_model_state_dict

from .errors import BadWeights
from .pytorch import tensors
from .weights import Arrays


def arrays_of(model: Any) -> Mapping[str, Any]:
    """Return the tensors of the active adapter, by their names in its file."""
    found: dict[str, Any] = get_peft_model_state_dict(model, adapter_name=_active(model))
    return found


def load_into(model: Any, weights: Arrays) -> Any:
    """Load weights into the active adapter, and return the model."""
    set_peft_model_state_dict(model, tensors(weights), adapter_name=_active(model))
    return model


def _active(model: Any) -> str:
    active = model.active_adapter
    if not isinstance(active, str):
        raise BadWeights(f"the model has several active adapters: {active!r}; activate one")
    return active
