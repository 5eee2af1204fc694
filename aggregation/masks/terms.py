"""What the header of a masked update must say to be part of a model's sums."""

from __future__ import annotations

from ..errors import UpdateRejected
from .messages import Header
from .settings import SecureAggregation


def check_terms(
    header: Header, settings: SecureAggregation, *, model: int, max_weight: int
) -> None:
    """Raise `UpdateRejected` unless an update was masked under these settings of its model.

    Parameters
    ----------
    header : Header
    settings : SecureAggregation
    model : int
    max_weight : int
        The cap of the weights; 1 if all updates have the same weight.
    """
    expected = {
        "model": model,
        "keeper": settings.keeper,
        "scale": settings.scale,
        "limit": settings.limit,
        "max_weight": max_weight,
    }
    for name, value in expected.items():
        if getattr(header, name) != value:
            raise UpdateRejected(
                f"the masked update was made for {name} {getattr(header, name)}, and the model's is "
                f"{value}: send it again"
            )
