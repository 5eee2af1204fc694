"""`download`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from django.core.management import CommandError

from models_app.models import (
    ModelAggregate,
)
from tests.factories import (
    get,
)

pytestmark = pytest.mark.usefixtures("database", "cloud")
RunCommand = Callable[..., str]
Lineage = list[ModelAggregate]


def test_an_aggregate_is_downloaded_whole(
    run_command: RunCommand, lineage: Lineage, tmp_path: Path
) -> None:
    """`download` writes the object's bytes, and replaces a file only with `--force`."""
    out = tmp_path / "weights" / "model.safetensors"
    out.parent.mkdir()
    run_command("download", lineage[0].pk, "--out", out)
    assert out.read_bytes() == get(str(lineage[0].result.name))
    with pytest.raises(CommandError, match="--force"):
        run_command("download", lineage[1].pk, "--out", out)
    run_command("download", lineage[1].pk, "--out", out, "--force")
    assert out.read_bytes() == get(str(lineage[1].result.name))
    assert list(out.parent.iterdir()) == [out]


@pytest.mark.parametrize("name", ["model.json", "model.NPZ"])
def test_the_suffix_of_another_format_is_refused(
    run_command: RunCommand, lineage: Lineage, tmp_path: Path, name: str
) -> None:
    """`download` refuses the suffix of another format, and names the right one."""
    with pytest.raises(CommandError, match=r"name it model\.safetensors"):
        run_command("download", lineage[0].pk, "--out", tmp_path / name)
    assert not (tmp_path / name).exists()
    run_command("download", lineage[0].pk, "--out", tmp_path / "model")
