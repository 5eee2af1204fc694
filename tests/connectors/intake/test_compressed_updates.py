"""Registration of compressed updates, whose model must take differences."""

from __future__ import annotations

import numpy as np
import pytest

from connectors.intake.updates import UpdateIntake
from tests.aggregation.formats.compressed_updates import compressed, written
from tests.connectors.intake.uploads import accepted, rejection_of, uploaded
from tests.factories import SMALL, make_model

pytestmark = pytest.mark.usefixtures("database", "shared_cloud")

BODY = compressed(SMALL)


def test_a_model_of_differences_takes_compressed_updates(intake: UpdateIntake) -> None:
    """A compressed update is accepted for its decompressed layout."""
    model = make_model(1, initial=SMALL, update_kind="differences")
    assert accepted(intake, uploaded(model, body=BODY)).size == len(BODY)


def test_a_model_of_weights_rejects_compressed_updates(intake: UpdateIntake) -> None:
    """The reason says that only differences may be compressed."""
    model = make_model(1, initial=SMALL)
    reason = rejection_of(intake, uploaded(model, body=BODY))
    assert reason == (
        "compression is 'int8', and only updates that are differences may be compressed"
    )


def test_scales_that_do_not_fit_are_rejected(intake: UpdateIntake) -> None:
    """The number of scales is checked from the header."""
    model = make_model(1, initial=SMALL, update_kind="differences")
    stored = {name: np.zeros(np.shape(array), np.int8) for name, array in SMALL.items()}
    body = written({**stored, "__scales__": np.zeros(99, np.float32)})
    assert "has 99 scales" in rejection_of(intake, uploaded(model, body=body))
