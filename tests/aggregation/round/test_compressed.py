"""Rounds of compressed updates: the bytes of the rounds of the same updates uncompressed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from aggregation.engine import Resources
from aggregation.formats import Spool, format_of, open_weights
from aggregation.layout import TensorLayout
from aggregation.policies import TensorPolicies
from aggregation.round import Claim, ClaimedUpdate
from aggregation.round.attempt import Attempt
from aggregation.round.plan import Execution
from aggregation.round.planning import plan_round
from aggregation.weights import Weights
from tests.aggregation.formats.compressed_updates import (
    compressed,
    decompressed,
    sparse,
    sparse_update,
)
from tests.aggregation.round.test_distributed import (
    RESOURCES,
    DirectoryConnector,
    capacity,
    claim_in,
    run_tasks,
    small_parts,
    stored_bytes,
)

__all__ = ["small_parts"]  # A fixture.

POLICIES = TensorPolicies.from_list([["head.*", "exclude"], ["steps", "max"], ["b", "average"]])


class Compressed(DirectoryConnector):
    """A connector whose updates may be compressed."""

    def _open(self, key: str, expected: TensorLayout | None, spool: Spool | None) -> Weights:
        seen = self.objects.stat(key)
        source = self.objects.source(key, size=seen.size, etag=seen.etag)
        return open_weights(
            source, format_of(key), expected_layout=expected, spool=spool, compressed=True
        )


def int8(arrays: dict[str, Any]) -> tuple[bytes, dict[str, Any]]:
    """Return the update compressed by int8, and its elements."""
    return compressed(arrays), decompressed(arrays)


def topk(arrays: dict[str, Any]) -> tuple[bytes, dict[str, Any]]:
    """Return the update compressed by topk, and its elements."""
    kept = sparse(arrays, 0.05)
    return sparse_update(kept), kept


def claims(root: Path, rule: str, compress: Any = int8) -> tuple[Claim, Claim]:
    """Return a claim of compressed updates, and one of the same updates uncompressed."""
    claim = replace(claim_in(root, rule), differences=True, policies=POLICIES)
    small: list[ClaimedUpdate] = []
    large: list[ClaimedUpdate] = []
    for update in claim.updates:
        arrays = safetensors.numpy.load_file(root / update.location)
        body, elements = compress(arrays)
        bodies = body, safetensors.numpy.save(elements)
        for body, updates, name in zip(bodies, (small, large), ("small", "large"), strict=True):
            location = f"{name}-{update.location}"
            (root / location).write_bytes(body)
            updates.append(replace(update, location=location, size=len(body)))
    return replace(claim, updates=tuple(small)), replace(claim, updates=tuple(large))


def combined(connector: Any, claim: Claim, resources: Resources = RESOURCES) -> tuple[bytes, Any]:
    """Return the result of one function."""
    result = Attempt(connector, claim, resources, lambda: False).combine()
    return stored_bytes(connector, result), result


@pytest.mark.parametrize("compress", [int8, topk])
@pytest.mark.parametrize("rule", ["weighted_mean", "coordinate_median", "krum", "bulyan"])
def test_compressed_updates_give_the_bytes_of_their_elements(
    rule: str, compress: Any, tmp_path: Path
) -> None:
    """One function and several, with little memory and with much, compute the same aggregate."""
    connector: Any = Compressed(tmp_path)
    small, large = claims(tmp_path, rule, compress)
    expected, _ = combined(connector, large)
    for memory in (1 << 13, 1 << 16, 1 << 24):
        resources = Resources(memory_bytes=memory, readers=2, workers=2)
        assert combined(connector, small, resources)[0] == expected
    for functions in (2, 7):
        execution = plan_round(connector, small, capacity(functions), RESOURCES)
        assert isinstance(execution, Execution)
        assert run_tasks(connector, execution, list)[0] == expected


def test_a_round_of_compressed_updates_reads_a_quarter_of_the_bytes(tmp_path: Path) -> None:
    """At most 0.27 of the bytes of the uncompressed updates are read, the scales included."""
    connector: Any = Compressed(tmp_path)
    layer = {f"layer{n}.weight": (150, 300) for n in range(4)} | {"bias": (300,)}
    rng = np.random.default_rng(1)
    parent = {name: rng.normal(size=shape).astype(np.float32) for name, shape in layer.items()}
    safetensors.numpy.save_file(parent, tmp_path / "base-0.safetensors")
    claim, _ = claims(tmp_path, "weighted_mean")
    safetensors.numpy.save_file(parent, tmp_path / "base-0.safetensors")
    read = {}
    for name, body in (("int8", compressed(parent)), ("plain", safetensors.numpy.save(parent))):
        (tmp_path / f"{name}.safetensors").write_bytes(body)
        updates = tuple(
            replace(update, location=f"{name}.safetensors", size=len(body))
            for update in claim.updates
        )
        changed = replace(claim, updates=updates, policies=TensorPolicies())
        _, result = combined(connector, changed, Resources(memory_bytes=1 << 22))
        read[name] = result.combined.bytes_read
    nbytes = sum(array.nbytes for array in parent.values())
    assert read["plain"] == (len(claim.updates) + 1) * nbytes  # The parent is read too.
    assert read["int8"] - nbytes <= 0.27 * len(claim.updates) * nbytes


def test_a_bad_scale_rejects_its_update_alone(tmp_path: Path) -> None:
    """The round leaves out an update with a scale that is NaN, and records the tensor and the place."""
    connector: Any = Compressed(tmp_path)
    small, large = claims(tmp_path, "weighted_mean")
    path = tmp_path / small.updates[4].location
    path.write_bytes(path.read_bytes()[:-4] + np.float32(np.nan).tobytes())
    found, result = combined(connector, small)
    assert list(result.rejected) == [4]
    assert "the scale of the block from tensor" in result.rejected[4]
    others = tuple(update for update in large.updates if update.id != 4)
    assert found == combined(connector, replace(large, updates=others))[0]


def test_repeated_indices_reject_their_update_alone(tmp_path: Path) -> None:
    """The round leaves out an update whose indices are repeated, and records the tensor and the place."""
    connector: Any = Compressed(tmp_path)
    small, large = claims(tmp_path, "weighted_mean", topk)
    path = tmp_path / small.updates[4].location
    body = path.read_bytes()
    path.write_bytes(body[:-12] + body[-12:-6] * 2)
    found, result = combined(connector, small)
    assert list(result.rejected) == [4]
    assert "is repeated" in result.rejected[4]
    others = tuple(update for update in large.updates if update.id != 4)
    assert found == combined(connector, replace(large, updates=others))[0]
