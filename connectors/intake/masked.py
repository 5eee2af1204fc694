"""Registration of masked updates: the header that the client signed must say what intake sees."""

from __future__ import annotations

from django.utils import timezone

from aggregation.errors import UpdateRejected
from aggregation.formats import format_of
from aggregation.layout import TensorLayout
from aggregation.masks.messages import Header
from aggregation.masks.settings import masked_layout
from aggregation.masks.terms import check_terms
from aggregation.masks.weights import open_masked
from aggregation.policies import TensorPolicies
from aggregation.round import SecureTerms
from aggregation.sources import ByteSource
from models_app.models import ModelUpdate


def open_update(
    source: ByteSource, key: str, layout: TensorLayout, policies: TensorPolicies
) -> Header:
    """Return the header of a masked update of a model.

    Raises
    ------
    UpdateRejected
    """
    if format_of(key) != "safetensors":
        raise UpdateRejected("masked updates are safetensors objects")
    return open_masked(source, masked_layout(layout, policies)).header


def check_header(header: Header, row: ModelUpdate, secure: SecureTerms) -> None:
    """Compare a header with the object's key and metadata, and with the model's settings.

    Raises
    ------
    UpdateRejected
    """
    check_terms(header, secure.settings, model=row.federated_model_id, max_weight=secure.max_weight)
    base = row.base_aggregate.pk if row.base_aggregate else 0
    expected = {
        "client": str(row.client_id),
        "base": base,
        "weight": min(row.num_examples, secure.max_weight),
    }
    for name, value in expected.items():
        if getattr(header, name) != value:
            raise UpdateRejected(
                f"the signed header says {name} {getattr(header, name)}, the upload says {value}"
            )
    if header.expires <= timezone.now().timestamp():
        raise UpdateRejected("the masked update has expired: send it again")
