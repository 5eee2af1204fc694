"""The requests that one upload causes at intake are limited, whatever the file says."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from connectors.intake.updates import UpdateIntake
from tests.connectors.intake.uploads import uploaded
from tests.factories import make_model
from tests.untyped import default_storage

pytestmark = pytest.mark.usefixtures("database", "shared_cloud")


@contextmanager
def requests_to_s3() -> Iterator[Counter[str]]:
    """Count the requests of the default storage by operation."""
    events, counts = default_storage.connection.meta.client.meta.events, Counter[str]()

    def count(model: Any, **_: Any) -> None:
        counts[model.name] += 1

    events.register("before-call.s3", count)
    try:
        yield counts
    finally:
        events.unregister("before-call.s3", count)


def npz(arrays: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_thousands_of_arrays_cost_few_requests(intake: UpdateIntake) -> None:
    """An archive of 4,096 small arrays, which the model does not have, is rejected quickly."""
    model = make_model(1, initial={"w": np.zeros(3, np.float32)})
    body = npz({f"a{number}": np.zeros(2, np.float32) for number in range(4096)})
    upload = uploaded(model, body=body, name="many.npz")
    with requests_to_s3() as counts:
        assert intake.register(upload).reason
    assert counts.total() <= 16


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_safetensors_file_costs_few_requests(intake: UpdateIntake) -> None:
    """The headers of the model and of the update are read, however many tensors they describe."""
    tensors = {f"a{number}": np.zeros(2, np.float32) for number in range(4096)}
    model = make_model(1, initial=tensors)
    upload = uploaded(model, body=safetensors.numpy.save(tensors))
    with requests_to_s3() as counts:
        assert not intake.register(upload).reason
    assert counts.total() <= 6
