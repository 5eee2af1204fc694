"""Tests of the bucket as files: every key is saved, or named with the reason."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from local.cloud import Cloud
from local.saving import save_bucket, unsaved_message
from tests.conftest import empty_cloud


def put(cloud: Cloud, *keys: str) -> None:
    for key in keys:
        cloud.client("s3").put_object(
            Bucket=cloud.bucket, Key=key, Body=b"" if key[-1] == "/" else b"x"
        )


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_every_object_is_saved_under_its_key(cloud: Cloud, tmp_path: Path) -> None:
    """The path of a file below the folder is the key of its object."""
    put(cloud, "updates/1/a b.json", "aggregates/1/x.npz")
    assert save_bucket(cloud, tmp_path) == {}
    assert files(tmp_path) == {"updates/1/a b.json", "aggregates/1/x.npz"}
    assert (tmp_path / "updates/1/a b.json").read_bytes() == b"x"


def test_folder_marker_becomes_a_folder(cloud: Cloud, tmp_path: Path) -> None:
    """What S3's console creates for a folder comes before the objects in it and does not hide them."""
    put(cloud, "updates/1/", "updates/1/a.json")
    assert save_bucket(cloud, tmp_path) == {}
    assert files(tmp_path) == {"updates/1/a.json"}


def test_object_that_cannot_be_a_file_is_named_with_the_reason(
    cloud: Cloud, tmp_path: Path
) -> None:
    """A name that is too long, or that is a file and a folder at once, is left out; the rest is saved."""
    put(cloud, "a", "a/b", "n" * 300, "z")
    unsaved = save_bucket(cloud, tmp_path)
    assert unsaved.keys() == {"a/b", "n" * 300}
    assert files(tmp_path) == {"a", "z"}
    assert "not saved: 'a/b': " in unsaved_message(unsaved)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    keys=st.sets(
        st.lists(st.sampled_from(["a", "b", "", ".", "..", "c d"]), min_size=1, max_size=4)
        .map("/".join)
        .filter(bool),
        min_size=1,
        max_size=6,
    )
)
def test_no_key_is_lost_and_none_leaves_the_folder(cloud: Cloud, keys: set[str]) -> None:
    """Each object is a file or folder below the one given, or is named; nothing is written elsewhere."""
    empty_cloud(cloud)
    put(cloud, *keys)
    with tempfile.TemporaryDirectory() as outer:
        folder = Path(outer) / "one" / "two"
        unsaved = save_bucket(cloud, folder)
        saved = keys - unsaved.keys()
        assert all((folder / key).exists() for key in saved)
        assert files(Path(outer)) == {f"one/two/{key}" for key in saved if key[-1] != "/"}
