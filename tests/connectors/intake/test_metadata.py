"""The metadata of updates: counts, bases, kinds and misspelt names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregation.errors import UpdateRejected
from connectors.intake.metadata import check_names, misspelt_name
from connectors.intake.updates import UpdateIntake
from tests.connectors.intake.uploads import accepted, new_aggregate, rejection_of, uploaded
from tests.factories import make_model

with_database = pytest.mark.usefixtures("database", "shared_cloud")


@with_database
@pytest.mark.parametrize(
    "text",
    [
        *("0", "-1", "1.5", "1e3", "+5", "5 6", "0x10", "1_000", "ten", "", "NaN", "inf", "true"),
        *(str(10**9 + 1), "1" + "0" * 30, "9" * 1000),
    ],
)
def test_an_invalid_count_is_rejected(intake: UpdateIntake, text: str) -> None:
    """A count is a whole number from one to a billion, in digits."""
    upload = uploaded(make_model(1), metadata={"num-examples": text})
    assert rejection_of(intake, upload).startswith("num-examples is ")


@with_database
def test_the_largest_count_is_accepted(intake: UpdateIntake) -> None:
    """A client may claim at most a billion examples."""
    upload = uploaded(make_model(1), metadata={"Num-Examples": str(10**9)})
    assert accepted(intake, upload).num_examples == 10**9


@with_database
@pytest.mark.parametrize(
    "text", ["0", "-1", "latest", "1.0", "9" * 18, "9" * 30, "1;drop table", "%s"]
)
def test_an_invalid_base_is_rejected(intake: UpdateIntake, text: str) -> None:
    """A base is the id of an aggregate of this model."""
    upload = uploaded(make_model(1), metadata={"base-aggregate": text})
    assert "is no aggregate of this model" in rejection_of(intake, upload)


@with_database
def test_a_base_of_another_model_is_rejected(intake: UpdateIntake) -> None:
    """An aggregate of another model is not a base."""
    other = new_aggregate(make_model(1))
    upload = uploaded(make_model(1), metadata={"base-aggregate": str(other.pk)})
    assert "is no aggregate of this model" in rejection_of(intake, upload)


@with_database
@pytest.mark.parametrize(
    ("furthest", "allowed"), [(1, {2}), (2, {1, 2}), (3, {0, 1, 2}), (None, {0, 1, 2})]
)
def test_a_base_too_far_back_is_rejected(
    intake: UpdateIntake, furthest: int | None, allowed: set[int]
) -> None:
    """With two aggregates, N allows the N latest; the initial model comes before the first."""
    model = make_model(1, furthest_base_agg=furthest)
    first = new_aggregate(model)
    bases = [None, first, new_aggregate(model, first)]
    for number, base in enumerate(bases):
        upload = uploaded(
            model,
            name=f"{number}.safetensors",
            metadata={"base-aggregate": str(base.pk)} if base else None,
        )
        if number in allowed:
            assert accepted(intake, upload).base_aggregate == base
        else:
            assert f"based on aggregate number {number}" in rejection_of(intake, upload)


@with_database
@pytest.mark.parametrize("kind", ["weights", "differences"])
@pytest.mark.parametrize("claimed", ["weights", "differences", "", "gradients", None])
def test_an_update_of_another_kind_is_rejected(
    intake: UpdateIntake, kind: str, claimed: str | None
) -> None:
    """Weights are not accepted as differences, nor the reverse; an update may leave its kind out."""
    metadata = {} if claimed is None else {"update-kind": claimed}
    upload = uploaded(make_model(1, update_kind=kind), metadata=metadata)
    if claimed in (None, "", kind):
        accepted(intake, upload)
    else:
        reason = rejection_of(intake, upload)
        assert reason == f"update-kind is {claimed!r}, and updates of this model are {kind!r}"


@with_database
def test_a_misspelt_name_is_rejected_with_the_right_one(intake: UpdateIntake) -> None:
    """Five hundred examples do not silently count as one."""
    reason = rejection_of(intake, uploaded(make_model(1), metadata={"num_examples": "500"}))
    assert (
        reason
        == "the metadata name 'num_examples' is not defined: 'num-examples' was probably meant"
    )


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        *((name, "num-examples") for name in ("num_examples", "num-examples-", "numexamples")),
        *((name, "num-examples") for name in ("num-example", "num-exmaples", "number-of-examples")),
        *((name, "num-examples") for name in ("examples", "num-samples", "x-num-examples")),
        *((name, "base-aggregate") for name in ("base_aggregate", "base-aggregate-id", "base")),
        *((name, "base-aggregate") for name in ("baseaggregate", "base-agg", "aggregate")),
        *((name, "update-kind") for name in ("update_kind", "updatekind", "kind", "update-type")),
    ],
)
def test_names_that_resemble_ours_are_refused(name: str, meant: str) -> None:
    """Other separators, missing or swapped letters and other words for the same thing."""
    with pytest.raises(UpdateRejected, match=f"{meant!r} was probably meant"):
        check_names({name: "1"})


@pytest.mark.parametrize(
    "name",
    [
        *("num-examples", "base-aggregate", "update-kind", "mtime", "sha256", "s3cmd-attrs"),
        *("update-id", "update-time", "updated-at", "num-epochs", "learning-rate", "client"),
    ],
)
def test_other_names_are_accepted(name: str) -> None:
    """Tools and users may add metadata of their own."""
    check_names({name: "1"})


@given(st.text(max_size=200))
def test_any_name_can_be_compared(name: str) -> None:
    """A name is known, resembles one that is known, or neither."""
    known = ["num-examples", "base-aggregate", "update-kind"]
    assert misspelt_name(name, known) in (None, *known)
