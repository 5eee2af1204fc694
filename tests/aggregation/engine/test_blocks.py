"""Blocks: remote sources are read ahead, local ones where they are combined, with the same result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

import aggregation.engine.passes
from aggregation.engine import Combination, Resources
from aggregation.engine.blocks import Block, BlockOnDemand
from aggregation.engine.reader import BlockReader
from aggregation.errors import InvalidWeights, OutOfTime, UpdatesRejected
from aggregation.formats import Spool, open_weights
from aggregation.policies import OPTIMIZE_ALL, TensorPolicies
from aggregation.sources import Buffer, ByteSource, FileSource
from aggregation.weights import Weights
from tests.aggregation.engine.engine_models import RULES, every_rule, mixed_models
from tests.aggregation.engine.engine_tools import bytes_of, run, vectors, work_of


class Remote:
    """A source that behaves as if it were remote."""

    local = False

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self.size = source.size

    def read_into(self, offset: int, buffer: Buffer) -> None:
        self._source.read_into(offset, buffer)


def remote(weights: Weights) -> Weights:
    return replace(weights, source=Remote(weights.source))


def remotely(work: Combination) -> Combination:
    """Return the same work on sources that are read ahead."""
    return replace(
        work,
        updates=[remote(update) for update in work.updates],
        parent=work.parent and remote(work.parent),
    )


#: Under a robust rule, these tensors take the values of all updates.
STATISTICS = TensorPolicies.from_list([["[bh]", "average"], ["f", "max"]])

Place = Callable[[Combination], Combination]
local_or_remote = pytest.mark.parametrize(
    "place", [lambda work: work, remotely], ids=["local", "remote"]
)


def file_of(path: Path, tensors: dict[str, Any]) -> Weights:
    path.write_bytes(safetensors.numpy.save(tensors))
    return open_weights(FileSource(path), "safetensors", spool=Spool())


@every_rule
@pytest.mark.parametrize("differences", [False, True])
@given(
    memory=st.integers(8_000, 3_000_000),
    readers=st.integers(1, 5),
    workers=st.integers(1, 4),
    policies=st.sampled_from([OPTIMIZE_ALL, STATISTICS]),
)
@settings(max_examples=6)
def test_the_result_does_not_depend_on_where_it_is_read(
    name: str,
    arguments: dict[str, Any],
    differences: bool,
    memory: int,
    readers: int,
    workers: int,
    policies: TensorPolicies,
) -> None:
    """Remote sources, which are read ahead, give the same bytes and the same outcome as local ones."""
    updates = mixed_models(8)
    options: dict[str, Any] = {"differences": differences, "policies": policies, **arguments}
    work = work_of(name, updates[:7], list(range(1, 8)), updates[7], **options)
    resources = Resources(memory_bytes=memory, readers=readers, workers=workers)
    (expected, here), (found, there) = run(work, resources), run(remotely(work), resources)
    assert found == expected
    assert (there.selection, there.norms) == (here.selection, here.norms)
    if policies is OPTIMIZE_ALL:
        assert there.bytes_read == here.bytes_read


def test_updates_are_named_by_their_positions_if_all_are_read() -> None:
    """A bad value that only shows in the result names its update, also if the rule left out others."""
    updates = mixed_models(8)
    updates[0]["a"] *= 1e6
    updates[4]["h"][3] = np.nan
    policies = TensorPolicies.from_list([["b", "average"], ["h", "max"]])
    work = work_of("multi_krum", updates[:7], None, updates[7], f=1, policies=policies)
    with pytest.raises(UpdatesRejected) as caught:
        run(remotely(work))
    assert caught.value.reasons == {4: "nan in tensor 'h' at [3]"}


def test_local_and_remote_sources_can_be_mixed() -> None:
    """A round with one remote source gives the same bytes as a round with local sources."""
    work = work_of("weighted_mean", mixed_models(4))
    mixed = replace(work, updates=[remote(work.updates[0]), *work.updates[1:]])
    assert bytes_of(mixed) == bytes_of(work)


@every_rule
@local_or_remote
@pytest.mark.parametrize("poison", [np.nan, -np.inf])
def test_poisoned_updates_are_found_in_local_and_remote_sources(
    name: str, arguments: dict[str, Any], place: Place, poison: float
) -> None:
    """Each poisoned update is named with the tensor and the place of its first bad value."""
    updates = mixed_models(8)
    updates[2]["g"][99, 129] = poison
    updates[5]["a"][36, 100] = poison
    updates[5]["g"][0, 0] = poison
    work = place(work_of(name, updates[:7], None, updates[7], **arguments))
    for memory in (50_000, 20_000_000):
        with pytest.raises(UpdatesRejected) as caught:
            bytes_of(work, Resources(memory_bytes=memory))
        assert caught.value.reasons == {
            2: f"{poison} in tensor 'g' at [99, 129]",
            5: f"{poison} in tensor 'g' at [0, 0]",
        }


@local_or_remote
def test_overflowing_values_are_found_in_local_and_remote_sources(place: Place) -> None:
    """The update whose finite value makes the mean overflow is named, with the place."""
    rows = np.ones((3, 4))
    rows[1, 2] = 1.7e308
    work = work_of("weighted_mean", vectors(rows, np.float64), [1, 1000, 1])
    with pytest.raises(UpdatesRejected) as caught:
        bytes_of(place(work))
    (reason,) = caught.value.reasons.values()
    assert list(caught.value.reasons) == [1]
    assert "overflow" in reason
    assert "tensor 'w' at [2]" in reason


def truncate(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def replace_file(path: Path) -> None:
    other = path.with_suffix(".other")
    other.write_bytes(path.read_bytes())
    other.replace(path)


@pytest.mark.parametrize(("name", "arguments"), [RULES[0], RULES[1]])
@local_or_remote
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (truncate, "file '1.safetensors' changed while it was read"),
        (replace_file, "file '1.safetensors' changed while it was read"),
        (Path.unlink, "the file no longer exists"),
    ],
)
def test_a_file_that_changes_in_mid_pass_is_rejected(
    name: str,
    arguments: dict[str, Any],
    place: Place,
    change: Callable[[Path], None],
    reason: str,
    tmp_path: Path,
) -> None:
    """The changed update and a later poisoned one are named, and the result is that of the others."""
    updates = mixed_models(5)
    updates[3]["b"][3000] = np.inf
    files = [file_of(tmp_path / f"{n}.safetensors", each) for n, each in enumerate(updates)]
    work = place(replace(work_of(name, updates, **arguments), updates=files))
    changes = iter([change])

    def on_bytes(count: int) -> None:
        for each in changes:
            each(tmp_path / "1.safetensors")

    with pytest.raises(UpdatesRejected) as caught:
        bytes_of(work, Resources(memory_bytes=30_000), on_bytes=on_bytes)
    assert caught.value.reasons == {1: reason, 3: "inf in tensor 'b' at [3000]"}
    usable = [0, 2, 4]
    rest = replace(
        work,
        updates=[work.updates[i] for i in usable],
        num_examples=[work.num_examples[i] for i in usable],
    )
    assert bytes_of(rest) == bytes_of(work_of(name, [updates[i] for i in usable], **arguments))


@local_or_remote
def test_a_parent_that_disappears_during_a_pass_is_reported(place: Place, tmp_path: Path) -> None:
    """If the parent can no longer be read, the round fails, and no update is blamed."""
    updates = mixed_models(3)
    parent = file_of(tmp_path / "parent.safetensors", updates[2])
    work = work_of("unweighted_mean", updates[:2], None, updates[2], differences=True)

    def on_bytes(count: int) -> None:
        (tmp_path / "parent.safetensors").unlink(missing_ok=True)

    with pytest.raises(InvalidWeights, match="the parent cannot be read"):
        bytes_of(
            place(replace(work, parent=parent)), Resources(memory_bytes=30_000), on_bytes=on_bytes
        )


@pytest.mark.parametrize("name", ["weighted_mean", "coordinate_median"])
@local_or_remote
def test_the_time_is_checked_after_every_piece(
    name: str, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At most one piece is combined between two checks, and none is written after the time is up."""
    monkeypatch.setattr(aggregation.engine.passes, "PIECE", 1024)
    monkeypatch.setattr(aggregation.engine.passes, "SLICE", 1024)
    updates = vectors(np.ones((3, 10 * 1024)))
    reported: list[int] = []
    answers = iter([False, False, True])
    with pytest.raises(OutOfTime, match="stopped at element 3072 of 10240"):
        bytes_of(
            place(work_of(name, updates)),
            Resources(memory_bytes=96 * 1024),
            out_of_time=lambda: next(answers),
            on_bytes=reported.append,
        )
    assert reported == [3 * 4096] * 2


def test_rows_on_demand_are_the_rows_of_the_block() -> None:
    """Rows on demand are those of the block, whether a few are taken, again, or all as an array."""
    rng = np.random.default_rng(0)
    work = work_of(
        "unweighted_mean", vectors(rng.normal(size=(4, 50))), None, {"w": np.ones(50, "f4")}
    )
    reader = BlockReader(work.policy_map, work.updates, work.parent)
    (whole,) = reader.now(10, 40, on_demand=False).slices(64)
    (piece,) = reader.now(10, 40, on_demand=True).slices(64)
    np.testing.assert_array_equal(np.asarray(piece.rows), whole.rows)
    for rows in (slice(0, 2), slice(1, 4), slice(3, 9), slice(0, 2)):
        np.testing.assert_array_equal(piece.rows[rows], whole.rows[rows])
    np.testing.assert_array_equal(piece.parent, np.ones(30))
    assert piece.rows.shape == whole.rows.shape == (4, 30)


def test_a_block_of_many_dtypes_is_read_at_once() -> None:
    """Neighbouring tensors of different dtypes are read together, not one by one."""
    work = work_of("unweighted_mean", mixed_models(3))
    reader = BlockReader(work.policy_map, work.updates, None)
    assert isinstance(reader.now(0, work.layout.size, on_demand=True), Block)
    start, stop, _ = work.layout.runs[0]
    assert isinstance(reader.now(start, stop, on_demand=True), BlockOnDemand)
