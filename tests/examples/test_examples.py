"""The examples, run as their documentation says, against the function in the embedded cloud.

The clients run in the interpreter that EXAMPLES_PYTHON names, which has the frameworks and nothing of the
server: `make test-examples` installs it, and there every example must run. Without it they run in this one.
Whoever reads the report must see which frameworks were there: an example whose framework is missing is
compiled, and a test of its own says that it was not run.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import pytest

from local.cloud import Cloud
from models_app.models import FederatedModel
from tests.client.delivery import deliver
from tests.factories import client_id, make_model

ROOT = Path(__file__).parents[2]

#: Example, and what it imports.
EXAMPLES = {
    "numpy_client": ("numpy",),
    "sklearn_client": ("sklearn",),
    "pytorch_client": ("torch",),
    "jax_client": ("jax",),
    "lora_client": ("torch", "peft", "transformers"),
}

#: What the clients run in.
PYTHON = os.environ.get("EXAMPLES_PYTHON", sys.executable)

PATIENCE_SECONDS = 180


@cache
def importable() -> set[str]:
    """Which of the frameworks the clients' interpreter has."""
    names = sorted({name for needed in EXAMPLES.values() for name in needed} | {"django"})
    code = "import sys, importlib.util as u; print(*filter(u.find_spec, sys.argv[1:]))"
    said = subprocess.run([PYTHON, "-c", code, *names], capture_output=True, text=True, check=True)
    return set(said.stdout.split())


def missing(example: str) -> list[str]:
    return sorted(set(EXAMPLES[example]) - importable())


HERE = [example for example in EXAMPLES if not missing(example)]
AWAY = [example for example in EXAMPLES if missing(example)]


def run_round(example: str, model: FederatedModel, cloud: Cloud, clients: int = 2) -> list[str]:
    """Start a process for each client, and deliver what they upload until all have ended."""
    started = [
        subprocess.Popen(
            [
                PYTHON,
                "-m",
                f"examples.{example}",
                cloud.bucket,
                str(model.pk),
                str(client_id(number)),
            ],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(1, clients + 1)
    ]
    overdue = time.monotonic() + PATIENCE_SECONDS
    try:
        while any(process.poll() is None for process in started) and time.monotonic() < overdue:
            if not deliver(cloud):
                time.sleep(0.05)
    finally:
        for process in started:
            process.kill()
    printed = [process.communicate()[0] for process in started]
    assert [process.returncode for process in started] == [0] * clients, "\n".join(printed)
    while deliver(cloud):
        pass
    return printed


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("database", ["postgres"], indirect=True)
@pytest.mark.parametrize("example", HERE)
def test_example_runs_two_rounds_and_the_model_learns(example: str, cloud: Cloud) -> None:
    """Two clients, each a process of its own, make two aggregates; both are scored, the second is good."""
    model = make_model(2, requirement="all_clients", score_metric="accuracy")
    for number in (1, 2):
        printed = run_round(example, model, cloud)
        assert all(f"the new aggregate is number {number}" in text for text in printed)
    assert [update.rejection_reason for update in model.model_updates.all()] == [""] * 4
    first, second = model.aggregates.order_by("number")
    assert first.validation_score is not None
    assert second.validation_score is not None
    assert second.validation_score >= max(0.5, first.validation_score - 0.1)
    based_on = model.model_updates.filter(applied_aggregate=second).values_list("base_aggregate")
    assert {base for (base,) in based_on} == {first.pk}


if AWAY:  # pytest reports a test without parameters as skipped.

    @pytest.mark.parametrize("example", AWAY)
    def test_example_is_ONLY_COMPILED_because_its_framework_is_not_installed(example: str) -> None:
        """Its syntax is right; whether it runs is NOT known here."""
        source = (ROOT / "examples" / f"{example}.py").read_text()
        compile(source, f"{example}.py", "exec")


@pytest.mark.skipif("EXAMPLES_PYTHON" not in os.environ, reason="`make test-examples` has them all")
def test_every_framework_is_there_and_nothing_of_the_server() -> None:
    """In the environment that is made for the examples none is left out, and Django is not needed."""
    assert AWAY == []
    assert "django" not in importable()


@pytest.mark.parametrize("example", EXAMPLES)
def test_example_is_under_sixty_lines(example: str) -> None:
    """As short as the documentation promises."""
    assert len((ROOT / "examples" / f"{example}.py").read_text().splitlines()) < 60


def test_every_example_is_tested() -> None:
    """A new example comes with a line in the table above."""
    found = {path.stem for path in (ROOT / "examples").glob("*.py")} - {"__init__"}
    assert found == EXAMPLES.keys()
