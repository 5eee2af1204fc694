"""Open every page and run every command, and measure what each costs.

``python -m benchmarks.scale.measure CLIENTS ROUNDS`` prints the costs as JSON. DATABASE_URL must name an
empty PostgreSQL database.
"""

from __future__ import annotations

import io
import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import django

if __name__ == "__main__":
    django.setup()

from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.db import connection
from django.test import Client as Browser

from benchmarks.scale.pages import paths
from benchmarks.scale.seed import Size, seed
from models_app.models import FederatedModel

#: Answers of addresses that show nothing: what nobody may add or change, and redirections.
NO_PAGES = (301, 302, 403)


@dataclass(kw_only=True)
class Cost:
    """The costs of a page or a command.

    Parameters
    ----------
    name : str
    seconds : float
    statements : int
    rows : int
        Rows that the database sent.
    parameters : int
        Of the statement that has the most.
    size : int
        Characters of the answer.
    """

    name: str
    seconds: float = 0.0
    statements: int = 0
    rows: int = 0
    parameters: int = 0
    size: int = 0


@contextmanager
def measured(cost: Cost) -> Iterator[None]:
    """Add up what the database does within."""

    def execute(run: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
        answer = run(sql, params, many, context)
        cost.statements += 1
        cost.parameters = max(cost.parameters, len(params or ()))
        if sql.lstrip().upper().startswith("SELECT"):
            cost.rows += max(0, context["cursor"].cursor.rowcount)
        return answer

    start = time.perf_counter()
    with connection.execute_wrapper(execute):
        yield
    cost.seconds = time.perf_counter() - start


def page_costs(model: FederatedModel) -> Iterator[Cost]:
    """Yield the costs of the console's pages."""
    browser = Browser(headers={"host": "localhost"})
    browser.force_login(get_user_model().objects.create_superuser("root"))
    for path in paths(model):
        cost = Cost(name=re.sub(r"/\d+/", "/N/", path))
        with measured(cost):
            answer = browser.get(path)
        if answer.status_code not in (200, *NO_PAGES):
            raise RuntimeError(f"{path}: {answer.status_code}")
        cost.size = len(answer.content)
        if answer.status_code == 200:
            yield cost


def command_costs(model: FederatedModel) -> Iterator[Cost]:
    """Yield the costs of the commands that read or write the database alone."""
    name, latest = model.name, model.aggregates.order_by("-number")[0].pk
    for line in (
        "models",
        "clients",
        f"clients {name}",
        f"rounds {name}",
        f"show_round {latest}",
        f"updates {name}",
        f"updates {name} --status pending",
        f"updates {name} --status invalid",
        f"lineage {name}",
        f"export_metrics {name} --of rounds --out -",
        f"set_model {name} --max-num-examples 500",
        f"set_model {name} --score-metric accuracy",
        f"pause {name}",
        f"resume {name}",
        "pause_client client-1",
        "resume_client client-1",
        "rename_client client-1 ward",
        f"remove_client {name} ward",
        f"add_clients {name} --client ward",
        f"publish {latest} --version 2.0.0",
        "sweep --dry-run",
        "doctor",
        "prune --older-than 180d --dry-run",
    ):
        cost, output = Cost(name=line), io.StringIO()
        arguments = [word.replace("client-1", "client 1") for word in line.split()]
        with measured(cost):
            call_command(*arguments, stdout=output, stderr=io.StringIO())
        cost.size = len(output.getvalue())
        yield cost


def main() -> None:
    """Seed the database, measure, and print the costs."""
    clients, rounds = map(int, sys.argv[1:])
    call_command("migrate", verbosity=0)
    model = seed(Size(clients=clients, rounds=rounds))
    Browser(headers={"host": "localhost"}).get("/login/")  # The first page compiles templates.
    costs = [*page_costs(model), *command_costs(model)]
    json.dump([asdict(cost) for cost in costs], sys.stdout)


if __name__ == "__main__":
    main()
