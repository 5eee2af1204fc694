"""Weights objects in storage are opened by their keys."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from aggregation.errors import InvalidWeights, ObjectMissing, UpdateRejected
from aggregation.formats import Spool
from aggregation.weights import read_tensors
from connectors import application
from models_app.models import ModelUpdate
from tests import factories
from tests.factories import filled


@pytest.mark.usefixtures("shared_cloud")
class TestOpening:
    """Objects in the bucket."""

    def test_an_object_is_opened_by_its_key(self) -> None:
        """Size and ETag are asked of storage where they are not known."""
        factories.put("artifacts/1/a.safetensors", safetensors.numpy.save(filled(1.0)))
        with Spool() as spool:
            weights = application.weights().open("artifacts/1/a.safetensors", spool=spool)
            np.testing.assert_array_equal(read_tensors(weights)["w"], filled(1.0)["w"])

    @pytest.mark.parametrize("key", ["artifacts/1/a.bin", "artifacts/1/a", "artifacts/1/a.pt"])
    def test_a_key_of_another_format_is_refused(self, key: str) -> None:
        """The extension tells the format, and others than the three are not read."""
        factories.put(key, b"x")
        with Spool() as spool, pytest.raises(UpdateRejected, match="in none of the formats"):
            application.weights().open(key, spool=spool)

    def test_another_object_than_the_one_seen_is_refused(self) -> None:
        """An update is the object that was seen at the door, or nothing."""
        key = "updates/1/x/a.safetensors"
        etag = factories.put(key, safetensors.numpy.save(filled(1.0)))
        update = ModelUpdate(data=key, etag=etag, size=len(safetensors.numpy.save(filled(1.0))))
        connector = application.weights()
        with Spool() as spool:
            connector.open_update(update, spool=spool)
            factories.put(key, safetensors.numpy.save(filled(2.0)))
            with pytest.raises(UpdateRejected, match="was replaced"):
                connector.open_update(update, spool=spool)

    def test_an_object_that_is_gone_is_missing(self) -> None:
        """A missing file is reported as missing, not as a broken file."""
        with Spool() as spool, pytest.raises(ObjectMissing):
            application.weights().open("artifacts/1/none.npz", spool=spool)

    @pytest.mark.parametrize("body", [None, b"broken"])
    def test_weights_of_our_own_that_cannot_be_read_are_nobodys_update(self, body: Any) -> None:
        """A missing or broken parent has an error class of its own, and no update is rejected for it."""
        key = "artifacts/1/own.safetensors"
        if body is not None:
            factories.put(key, body)
        with Spool() as spool, pytest.raises(InvalidWeights, match=key) as error:
            application.weights().open_own(key, spool)
        assert not isinstance(error.value, UpdateRejected)
