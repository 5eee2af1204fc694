"""The examples, run as their documentation says, against the function in the embedded cloud.

The clients run in the interpreter that EXAMPLES_PYTHON names, which has the frameworks and nothing of the
server: `make test-examples` installs it, and there every example must run. Without it they run in this one.
The report shows which frameworks were there: an example whose framework is missing is only compiled, by a
test of its own.
"""

from __future__ import annotations

import os
import re
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
from tests.test_lambda_handler import invoke, payload

ROOT = Path(__file__).parents[2]

#: Each example, and what it imports.
EXAMPLES = {
    "numpy_client": ("numpy",),
    "sklearn_client": ("sklearn",),
    "pytorch_client": ("torch",),
    "jax_client": ("jax",),
    "lora_client": ("torch", "peft", "transformers"),
}

#: The interpreter of the clients.
PYTHON = os.environ.get("EXAMPLES_PYTHON", sys.executable)

TIMEOUT_SECONDS = 180

#: How many modules `tests.examples.torch_modules` sends.
MODULES = 8

on_postgres = pytest.mark.parametrize("database", ["postgres"], indirect=True)


@cache
def importable() -> set[str]:
    """Return which of the frameworks the clients' interpreter has."""
    names = sorted({name for needed in EXAMPLES.values() for name in needed} | {"django"})
    code = "import sys, importlib.util as u; print(*filter(u.find_spec, sys.argv[1:]))"
    done = subprocess.run([PYTHON, "-c", code, *names], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def missing(example: str) -> list[str]:
    return sorted(set(EXAMPLES[example]) - importable())


INSTALLED = [example for example in EXAMPLES if not missing(example)]
NOT_INSTALLED = [example for example in EXAMPLES if missing(example)]


def run_round(module: str, model: FederatedModel, cloud: Cloud, clients: int = 2) -> list[str]:
    """Start a process for each client, and deliver what they upload until all have ended."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "client" / "src")])
    started = [
        subprocess.Popen(
            [PYTHON, "-m", module, cloud.bucket, str(model.pk), str(client_id(n))],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for n in range(1, clients + 1)
    ]
    overdue = time.monotonic() + TIMEOUT_SECONDS
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
@on_postgres
@pytest.mark.parametrize("example", INSTALLED)
def test_example_runs_two_rounds_and_the_model_learns(example: str, cloud: Cloud) -> None:
    """Two clients, each a process of its own, make two aggregates; both are scored, the second is good."""
    model = make_model(2, requirement="all_clients", score_metric="accuracy")
    for number in (1, 2):
        printed = run_round(f"examples.{example}", model, cloud)
        assert all(f"the new aggregate is number {number}" in text for text in printed)
        if example == "lora_client" and number == 1:
            model.furthest_base_agg = 1
            model.freeze = {"odd": ["*lora_B*"], "even": ["*lora_A*"]}
            model.save()
            invoke(payload("schedule-sweep"))  # It writes the schedule into latest.json.
    assert [update.rejection_reason for update in model.model_updates.all()] == [""] * 4
    first, second = model.aggregates.order_by("number")
    assert first.validation_score is not None
    assert second.validation_score is not None
    assert second.validation_score >= max(0.5, first.validation_score - 0.1)
    based_on = model.model_updates.filter(applied_aggregate=second).values_list("base_aggregate")
    assert {base for (base,) in based_on} == {first.pk}


@pytest.mark.skipif("torch" not in importable(), reason="PyTorch is not installed")
@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_torch_modules_come_back_as_they_were_sent(cloud: Cloud) -> None:
    """Every tensor of their state_dicts survives the handler: dtype, shape and values."""
    models = [make_model(1) for _ in range(MODULES)]
    run_round("tests.examples.torch_modules", models[0], cloud, clients=1)
    for model in models:
        assert model.model_updates.get().rejection_reason == ""


if NOT_INSTALLED:  # pytest reports a test without parameters as skipped.

    @pytest.mark.parametrize("example", NOT_INSTALLED)
    def test_example_is_ONLY_COMPILED_because_its_framework_is_not_installed(example: str) -> None:
        """The example's syntax is right; whether it runs is NOT known here."""
        source = (ROOT / "examples" / f"{example}.py").read_text()
        compile(source, f"{example}.py", "exec")


@pytest.mark.skipif("EXAMPLES_PYTHON" not in os.environ, reason="`make test-examples` sets it")
def test_every_framework_is_installed_and_nothing_of_the_server() -> None:
    """In the environment of the examples no framework is missing, and Django is not there."""
    assert NOT_INSTALLED == []
    assert "django" not in importable()


@pytest.mark.skipif("lora_client" not in INSTALLED, reason="PEFT is not installed")
def test_a_frozen_factor_makes_the_mean_of_adapters_exact() -> None:
    """The example prints an error of several percent without a schedule, and none with it."""
    printed = subprocess.run(
        [PYTHON, "-m", "examples.lora_client"],
        cwd=ROOT,
        env=os.environ
        | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}:{ROOT / 'client' / 'src'}"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    both, one = (float(text) for text in re.findall(r"error (\S+)%", printed))
    assert both > 1
    assert one == 0


@pytest.mark.parametrize("example", EXAMPLES)
def test_examples_are_short(example: str) -> None:
    """The examples are as short as the documentation says; that of LoRA also measures its error."""
    lines = len((ROOT / "examples" / f"{example}.py").read_text().splitlines())
    assert lines < (80 if example == "lora_client" else 60)


def test_every_example_is_tested() -> None:
    """Each example has a line in the table above."""
    found = {path.stem for path in (ROOT / "examples").glob("*.py")} - {"__init__"}
    assert found == EXAMPLES.keys()
