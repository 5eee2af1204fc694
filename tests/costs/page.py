"""Compute the figures of docs/cost.md; `python -m tests.costs.page` writes them into the page."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from aggregation.rules import create_rule
from costs.duration import default_rate
from costs.estimate import AGGREGATES_KEPT, UPDATES_KEPT, Federation
from costs.parameters import PARAMETERS, stack_with
from costs.prices import US_EAST_1 as PRICES
from costs.published import SHARDED, same_work
from costs.rounds import Work, memory_budget
from costs.stack import MB_A_PROCESSOR, PROXY_ACU, SERVER_DISK_GB, Stack, server
from tests.deploy.stack import ROOT, presets

PAGE = ROOT / "docs" / "cost.md"


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def money(dollars: float) -> str:
    return f"{dollars:,.2f}".replace(",", " ")


def federation(
    rounds_a_day: float = 24, rate: float | None = None, rule: str = "weighted_mean", **more: Any
) -> Federation:
    """Return the example of the page: 100 clients, 25 million float32, the default size."""
    from django.conf import settings

    stack = more.pop("stack", Stack())
    work = Work(
        params=25_000_000,
        dtype=np.dtype("<f4"),
        updates=100,
        rule=create_rule(rule, more),
        memory_bytes=memory_budget(stack.memory_mb, settings.ENGINE_SHARE),
    )
    return Federation(
        work=work,
        stack=stack,
        prices=PRICES,
        clients=100,
        rounds_a_day=rounds_a_day,
        mb_a_second=rate or default_rate(),
        engine_share=settings.ENGINE_SHARE,
    )


def prices() -> str:
    p = PRICES
    noted = f"{p.region}, on demand, in dollars, as published by AWS; noted on {p.noted_on}."
    return f"{noted}\n\n{table(['what', 'price'], [*_usage_prices(), *_standing_prices()])}"


def _usage_prices() -> list[tuple[str, str]]:
    p = PRICES
    return [
        (
            "Lambda, arm64",
            f"{p.arm64_gb_second:.10f} a GB-second; {1e6 * p.lambda_request:.2f} a million requests",
        ),
        ("Lambda, x86_64", f"{p.x86_64_gb_second:.10f} a GB-second"),
        (
            "SnapStart",
            f"{p.snapshot_gb_second:.10f} a GB-second of a version's snapshot; "
            f"{p.snapshot_restored_gb:.10f} a GB restored",
        ),
        (
            "S3",
            f"{p.s3_gb_month} a GB-month; {1000 * p.s3_write:.3f} a thousand PUT, POST, LIST; "
            f"{1000 * p.s3_read:.4f} a thousand GET, HEAD; no charge between S3 and Lambda in a Region",
        ),
        ("SQS", f"{1e6 * p.sqs_request:.2f} a million requests"),
        (
            "Step Functions",
            f"{1000 * p.state_transition:.3f} a thousand transitions; Express: "
            f"{1e6 * p.express_request:.2f} a million, {p.express_gb_second:.8f} a GB-second",
        ),
    ]


def _standing_prices() -> list[tuple[str, str]]:
    p = PRICES
    return [
        (
            "Aurora PostgreSQL Serverless v2",
            f"{p.acu_hour:.2f} a capacity-unit-hour; {p.database_gb_month:.2f} a GB-month",
        ),
        ("RDS Proxy", f"{p.proxy_acu_hour} a capacity-unit-hour, for at least {PROXY_ACU} units"),
        (
            "interface endpoint",
            f"{p.endpoint_hour:.2f} an hour and zone (the gateway endpoint of S3 is free)",
        ),
        ("Secrets Manager", f"{p.secret_month:.2f} a secret and month"),
        ("KMS", f"{p.key_month:.2f} a key and month, with `Privacy` on"),
        (
            "CloudWatch",
            f"{p.alarm_month:.2f} an alarm and month; {p.metric_month:.2f} a metric and month, for the "
            f"hours in which it is written; {p.log_gb:.2f} a GB of logs; {p.dashboard_month:.2f} a "
            "dashboard and month after the third",
        ),
        ("EventBridge Scheduler", f"{1e6 * p.schedule_call:.2f} a million"),
        ("to the Internet", f"{p.internet_gb:.2f} a GB"),
        (
            "for comparison: EC2 t4g.medium (2 vCPU, 4 GB)",
            f"{p.server_hour} an hour, and {p.disk_gb_month:.2f} a GB-month of disk",
        ),
    ]


SIZES = ("small", "default", "medium", "large")


def size(name: str) -> Stack:
    """Return the stack of a size, with the parameters on which costs depend."""
    return stack_with({key: text for key, text in presets()[name].items() if key in PARAMETERS})


def idle() -> str:
    columns = [size(name).idle(PRICES) for name in SIZES]
    rows = [
        [what, *(money(column[what]) for column in columns)]
        for what in columns[0]
        if any(column[what] >= 0.005 for column in columns)
    ]
    sums = [sum(column.values()) for column in columns]
    given = [c["alarms"] + c["Lambda's polling of the queue"] for c in columns]
    rows.append(["**sum**", *(f"**{money(each)}**" for each in sums)])
    rows.append(
        [
            "the same after permanent free quantities (ten alarms, a million SQS requests)",
            *(money(each - free) for each, free in zip(sums, given, strict=True)),
        ]
    )
    return table(["", *SIZES], rows)


def idle_facts() -> str:
    stack, p = Stack(), PRICES
    woken = [
        money(Stack(sweep_hours=hours).sweep_acu_hours() * p.acu_hour) for hours in (6, 1, 0.25)
    ]
    proxy = Stack(database_proxy=True).standing(p)["RDS Proxy"]
    disk = SERVER_DISK_GB * p.disk_gb_month
    return "\n".join(
        [
            "- A small server that always runs, with its PostgreSQL and without a standby: "
            f"{money(server(p) - disk)} for the t4g.medium and {money(disk)} for "
            f"{SERVER_DISK_GB} GB of disk, **{money(server(p))}** a month.",
            f"- A sweep keeps the database active for {60 * stack.active_hours_after_call:.0f} minutes. "
            f"Every 6 hours {woken[0]} a month, hourly {woken[1]}, every quarter of an hour {woken[2]}.",
            f"- RDS Proxy: {money(proxy)} a month, and the database never pauses.",
        ]
    )


RULES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("weighted_mean", {}),
    ("krum", {"f": 10}),
    ("multi_krum", {"f": 10}),
    ("bulyan", {"f": 10}),
    ("geometric_median", {}),
)


def rules() -> str:
    rows = []
    for name, arguments in RULES:
        of = federation(rule=name, **arguments)
        text = ", ".join(f"{key}={value}" for key, value in arguments.items())
        rows.append(
            (
                f"`{name}`" + (f" ({text})" if text else ""),
                f"{of.work.nbytes / 1e9:.1f} GB",
                f"{sum(each.reads for each in of.work.passes)}",
                f"{of.duration.seconds:.0f} s",
                of.duration.invocations,
                money(1000 * of.round_dollars),
            )
        )
    head = ["rule", "read", "ranged GETs", "time", "invocations", "a thousand rounds"]
    return table(head, rows)


def sharded() -> str:
    rows = []
    for published in SHARDED:
        alone, shared = (same_work(published, federation(), shared=each) for each in (False, True))
        invocations = alone.duration.invocations
        rows.append(
            [
                published.model,
                f"{published.seconds:g} s",
                f"{published.dollars:.2f}",
                f"{alone.elapsed_seconds:.1f} s"
                + (f", {invocations} invocations" if invocations > 1 else ""),
                money(1000 * alone.round_dollars),
                shared.shared.functions if shared.shared else 1,
                f"{shared.elapsed_seconds:.1f} s",
                money(1000 * shared.round_dollars),
            ]
        )
    head = [
        "20 clients, model of",
        "sharded, **measured by its authors**",
        "a thousand rounds",
        "one function, **modelled**",
        "a thousand rounds",
        "functions",
        "that share the round, **modelled**",
        "a thousand rounds",
    ]
    return table(head, rows)


#: The rows of the comparison for which there are bars.
SHARED = {each.model: each for each in SHARDED if each.model in ("512 MB, 16 functions", "5 GB")}


def shared() -> str:
    """Return the terms of a shared round's duration and costs."""
    columns = [same_work(each, federation(), shared=True) for each in SHARED.values()]
    rounds = [each.shared for each in columns if each.shared]
    rows = [
        [what, *(f"{each.terms[what]:.2f} s" for each in rounds)]
        for what in rounds[0].terms
        if any(each.terms[what] for each in rounds)
    ]
    rows.append(["**duration**", *(f"**{each.seconds:.1f} s**" for each in rounds)])
    costs = [each.round_costs for each in columns]
    rows += [[what, *(f"{1000 * each[what]:.3f}" for each in costs)] for what in costs[0]]
    rows.append(
        ["**a thousand rounds**", *(f"**{money(1000 * each.round_dollars)}**" for each in columns)]
    )
    head = [
        f"20 x {each.work.layout.nbytes / 1e6:g} MB, {found.functions} functions, "
        f"{len(found.part_ends)} parts"
        for each, found in zip(columns, rounds, strict=True)
    ]
    return table(["", *head], rows)


#: Memory of the workers, for comparison.
WORKER_SIZES_MB = (512, 640, 768, 1024, 1769)


def workers() -> str:
    """Return the costs of the two rounds for several sizes of the workers."""
    rows = []
    for memory in WORKER_SIZES_MB:
        stack = Stack(worker_memory_mb=memory)
        costs = [
            money(1000 * same_work(each, federation(stack=stack), shared=True).round_dollars)
            for each in SHARED.values()
        ]
        rows.append([memory, f"{memory / MB_A_PROCESSOR:.2f}", *costs])
    return table(["MB", "processors", "20 x 512 MB", "20 x 5 GB"], rows)


GROUPS = {
    "function": (
        "Lambda, the round",
        "Lambda, uploads registered",
        "Lambda, invocations",
        "Lambda, snapshot restored once",
    ),
    "S3, the function's requests": ("S3, the function reads", "S3, the function writes"),
    "S3, clients' requests": ("S3, clients upload", "S3, clients fetch the aggregate"),
    "SQS, logs, metrics": ("SQS", "CloudWatch, logs", "CloudWatch, metrics"),
    "Aurora, active for rounds and sweeps": (
        "Aurora, active for the round",
        "Aurora, resumed by sweeps",
    ),
}
KEPT = (UPDATES_KEPT, AGGREGATES_KEPT)


def month() -> str:
    columns = [federation(rounds_a_day=rounds) for rounds in (1, 24)]
    months = [each.month for each in columns]
    grouped = {name for names in GROUPS.values() for name in names}
    rest = [name for name in months[0] if name not in grouped | set(KEPT)]
    short = [
        federation(each.rounds_a_day, stack=Stack(update_retention_days=7)) for each in columns
    ]
    groups = {**GROUPS, "endpoint, snapshot, secret, alarms, polling, storage": tuple(rest)}
    rows = [
        [group, *(money(sum(each[name] for name in names)) for each in months)]
        for group, names in groups.items()
    ]
    rows.append(
        [
            "**sum without kept objects**",
            *(f"**{money(sum(e.values()) - sum(e[n] for n in KEPT))}**" for e in months),
        ]
    )
    rows.append(["updates kept for 90 + 30 days", *(money(each[KEPT[0]]) for each in months)])
    rows.append(["the same for 7 + 30 days", *(money(each.month[KEPT[0]]) for each in short)])
    rows.append(
        ["aggregates kept; each month adds as much", *(money(each[KEPT[1]]) for each in months)]
    )
    rows.append(
        [
            "not in the sum: each client fetches each aggregate over the Internet",
            *(money(each.fetched_gb * PRICES.internet_gb) for each in columns),
        ]
    )
    return table(["a month of", "1 round a day", "24 rounds a day"], rows)


def month_facts() -> str:
    of = federation()
    woken = 0.5 * of.active_hours_per_round * PRICES.acu_hour
    return (
        f"A round reads {of.work.nbytes / 1e9:.0f} GB in {of.duration.seconds:.0f} s. The function and its "
        f"requests to S3 cost {of.round_dollars:.4f}; the database that is active for it, {woken:.4f}."
    )


BLOCKS: dict[str, Callable[[], str]] = {
    "prices": prices,
    "idle": idle,
    "idle facts": idle_facts,
    "rules": rules,
    "sharded": sharded,
    "shared": shared,
    "workers": workers,
    "month": month,
    "month facts": month_facts,
}


def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(rf"(?<=<!-- computed: {name} -->\n\n)(.*?)(?=\n\n<!-- end -->)", re.DOTALL)


def written(text: str, name: str) -> str:
    """Return a block of the page."""
    (block,) = _pattern(name).findall(text)
    return str(block)


def rewritten(text: str) -> str:
    """Return the page with every block computed."""
    for name, compute in BLOCKS.items():
        text = _pattern(name).sub(compute().replace("\\", r"\\"), text)
    return text


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
    os.environ.setdefault("DATABASE_URL", "sqlite:///:memory:")
    os.environ.setdefault("STORAGE_ROOT", "/nonexistent")
    PAGE.write_text(rewritten(PAGE.read_text()))
