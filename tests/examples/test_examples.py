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
from collections.abc import Iterator
from datetime import timedelta
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

from connectors.usecases.administration.clients import invite
from local.cloud import Cloud
from models_app.models import FederatedModel
from tests.client.api_runtime import running_api
from tests.factories import make_model
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

#: What the scripts of `ROUND_TRIPS` import.
NEEDED = EXAMPLES | {
    "torch_modules": ("torch",),
    "jax_pytrees": ("jax",),
    "sklearn_estimators": ("sklearn",),
    "peft_adapters": ("torch", "peft", "transformers"),
}

#: The interpreter of the clients, and variables of their processes.
PYTHON = os.environ.get("EXAMPLES_PYTHON", sys.executable)
VARIABLES = {
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "client" / "src")]),
}

TIMEOUT_SECONDS = 180

#: Scripts that send models and compare what comes back, and how many each of them sends.
ROUND_TRIPS = {
    "torch_modules": 9,
    "jax_pytrees": 3,
    "sklearn_estimators": 8,
    "peft_adapters": 3,
}

on_postgres = pytest.mark.parametrize("database", ["postgres"], indirect=True)


@cache
def importable() -> set[str]:
    """Return which of the frameworks the clients' interpreter has."""
    names = sorted({name for needed in EXAMPLES.values() for name in needed} | {"django"})
    code = "import sys, importlib.util as u; print(*filter(u.find_spec, sys.argv[1:]))"
    done = subprocess.run([PYTHON, "-c", code, *names], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def missing(example: str) -> list[str]:
    return sorted(set(NEEDED[example]) - importable())


INSTALLED = [example for example in EXAMPLES if not missing(example)]
NOT_INSTALLED = [example for example in EXAMPLES if missing(example)]


def run(commands: list[list[str]], environments: list[dict[str, str]]) -> list[str]:
    """Run the processes of clients at the same time, and return what they print."""
    started = [
        subprocess.Popen(
            [PYTHON, "-m", *command],
            cwd=ROOT,
            env=os.environ | VARIABLES | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for command, environment in zip(commands, environments, strict=True)
    ]
    overdue = time.monotonic() + TIMEOUT_SECONDS
    try:
        while any(process.poll() is None for process in started) and time.monotonic() < overdue:
            time.sleep(0.05)
    finally:
        for process in started:
            process.kill()
    printed = [process.communicate()[0] for process in started]
    assert [process.returncode for process in started] == [0] * len(started), "\n".join(printed)
    return printed


@pytest.fixture
def url(cloud: Cloud, database: str, tmp_path: Path) -> Iterator[str]:
    """The API's URL."""
    with running_api(cloud, tmp_path) as url:
        yield url


def enroll(url: str, model: FederatedModel, clients: int, folder: Path) -> list[dict[str, str]]:
    """Enroll clients from the command line; return the variables that lead each to its profile."""
    homes = [{"FEDERATED_CLIENT_HOME": str(folder / str(n))} for n in range(clients)]
    tokens = [each.token for each in invite(model, clients, timedelta(days=1))]
    run(
        [["federated_client.command_line", "enroll", url, "--token", each] for each in tokens],
        homes,
    )
    return homes


@on_postgres
@pytest.mark.parametrize("example", INSTALLED)
def test_example_runs_four_rounds_and_the_model_learns(
    example: str, url: str, tmp_path: Path
) -> None:
    """Two clients with a URL and a token make four aggregates, and the third is better than a guess."""
    model = make_model(0, requirement="all_clients", score_metric="accuracy")
    homes = enroll(url, model, 2, tmp_path)
    commands = [[f"examples.{example}", str(seed), "2"] for seed in (1, 2)]
    for number in (2, 4):
        printed = run(commands, homes)
        assert all(f"the new aggregate is number {number}" in text for text in printed)
        if example == "lora_client" and number == 2:
            model.furthest_base_agg = 1
            model.freeze = {"odd": ["*lora_B*"], "even": ["*lora_A*"]}
            model.save()
            invoke(payload("schedule-sweep"))  # It writes the schedule into latest.json.
    assert [update.rejection_reason for update in model.model_updates.all()] == [""] * 8
    scores = scores_of(model, 3)
    assert scores[-1] >= max(0.5, scores[0] - 0.1)
    aggregates = list(model.aggregates.order_by("number"))
    for parent, aggregate in pairwise(aggregates):
        based_on = model.model_updates.filter(applied_aggregate=aggregate)
        assert {base for (base,) in based_on.values_list("base_aggregate")} == {parent.pk}


def scores_of(model: FederatedModel, count: int) -> list[float]:
    """Wait until aggregates are scored, which is after the clients have ended, and return the scores."""
    overdue = time.monotonic() + 30
    while True:
        found = list(model.aggregates.order_by("number").values_list("validation_score", flat=True))
        scores = [score for score in found if score is not None]
        if len(scores) >= count or time.monotonic() > overdue:
            assert len(scores) == count
            return scores
        time.sleep(0.1)


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.parametrize("script", [each for each in ROUND_TRIPS if not missing(each)])
def test_models_come_back_as_they_were_sent(script: str, url: str, tmp_path: Path) -> None:
    """A model of a framework goes through the function, and another one gets the same weights."""
    models = [make_model(0) for _ in range(ROUND_TRIPS[script])]
    invited = [invite(model, 1, timedelta(days=1))[0].token for model in models]
    home = {"FEDERATED_CLIENT_HOME": str(tmp_path / "profiles")}
    run([[f"tests.examples.{script}"]], [{**home, "URL": url, "TOKENS": " ".join(invited)}])
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
    (printed,) = run([["examples.lora_client"]], [{}])
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
