"""The page of the report.

It is built without templates: the function that runs operators' commands has none. Its size is bounded,
because plots and tables show a bounded number of rows, and texts are cut.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString, mark_safe

from models_app.control_room import control_room
from models_app.models import AggregationRound, FederatedModel
from models_app.overview import ClientRow, Mark, RoundSummary, client_page
from models_app.overview.clients import BY_LAST_SEEN
from models_app.overview.rounds import in_time

STYLE = Path(__file__).with_name("report.css")

#: Rows of a table, and characters of a text that clients or errors determine.
ROWS, MAX_TEXT = 25, 300


def html_report(model: FederatedModel, now: datetime) -> str:
    """Return the overview of a model as an HTML document.

    It takes a constant number of statements. The document loads nothing, runs nothing, and has fewer than
    a million characters.
    """
    room = control_room(model)
    overview = room.overview
    clients = client_page(model, order=BY_LAST_SEEN)
    head = format_html(
        "<h1>{}</h1><p class='soft'>Rule {}. A round needs {}. As of {}.</p>",
        _cut(model.name),
        model.aggregator,
        overview.card.requirement,
        _moment(now),
    )
    body = [
        head,
        _alerts([alert.text for alert in overview.card.alerts]),
        format_html(
            '<dl class="tiles">{}</dl>',
            format_html_join(
                "",
                '<div><dt>{}</dt><dd>{}</dd><dd class="note">{}</dd></div>',
                ((tile.label, tile.value, _cut(tile.note)) for tile in overview.tiles),
            ),
        ),
        _plots(room.plots),
        _table("What happened", MARK_HEADS, map(_mark_row, reversed(overview.curve.marks))),
        _table("Rounds", ROUND_HEADS, map(_round_row, overview.rounds)),
        _table(
            f"Clients, the longest silent first: {len(clients.rows)} of {clients.total}",
            CLIENT_HEADS,
            map(_client_row, clients.rows),
        ),
        _table(
            "Why updates were rejected",
            ["Updates", "Reason"],
            ([str(each.count), each.reason] for each in overview.reasons),
        ),
    ]
    return _document(model.name, body)


def _document(title: str, body: Iterable[SafeString]) -> str:
    return format_html(
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        '<meta http-equiv="Content-Security-Policy" content="{}">'
        "<title>{}</title><style>{}</style></head><body><main>{}</main></body></html>\n",
        "default-src 'none'; style-src 'unsafe-inline'",
        _cut(title),
        mark_safe(STYLE.read_text()),  # noqa: S308 - It is a file of this package.
        format_html_join("\n", "{}", ((part,) for part in body)),
    )


def _alerts(texts: Sequence[str]) -> SafeString:
    if not texts:
        return SafeString("")
    items = format_html_join("", "<li>{}</li>", ((_cut(text),) for text in texts))
    return format_html('<ul class="alerts" aria-label="Alerts">{}</ul>', items)


def _plots(plots: Sequence[SafeString]) -> SafeString:
    if not plots:
        return SafeString("<p>No round has ended yet.</p>")
    return format_html(
        '<div class="plots">{}</div>', format_html_join("", "{}", ((each,) for each in plots))
    )


def _table(title: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> SafeString:
    """Return the first rows as a table under a heading; empty without rows."""
    shown = list(rows)[:ROWS]
    if not shown:
        return SafeString("")
    return format_html(
        '<section><h2>{}</h2><div class="sheet" tabindex="0" role="group" aria-label="{}">'
        "<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table></div></section>",
        title,
        title,
        format_html_join("", '<th scope="col">{}</th>', ((head,) for head in heads)),
        format_html_join(
            "",
            "<tr>{}</tr>",
            (
                (format_html_join("", "<td>{}</td>", ((_cut(cell),) for cell in row)),)
                for row in shown
            ),
        ),
    )


MARK_HEADS = ["Aggregate", "Kind", "What"]
ROUND_HEADS = ["Round", "State", "Ended", "Took", "Used", "Rejected", "Error"]
CLIENT_HEADS = [
    "Client",
    "State",
    "Last seen",
    "Used",
    "Rejected",
    "Last reason",
    "Norm",
    "Contribution",
]


def _mark_row(mark: Mark) -> list[str]:
    return [str(mark.number), str(mark.kind), mark.text]


def _round_row(round: RoundSummary) -> list[str]:
    return [
        str(round.number),
        AggregationRound.State(round.state).name.lower(),
        _moment(round.finished_on),
        "" if round.seconds is None else in_time(round.seconds),
        str(round.used),
        str(round.rejected),
        round.error,
    ]


def _client_row(client: ClientRow) -> list[str]:
    return [
        client.label,
        client.state,
        _moment(client.last_seen) or "never",
        str(client.used),
        str(client.rejected),
        client.last_reason,
        _number(client.norm),
        _number(client.contribution),
    ]


def _moment(at: datetime | None) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC" if at else ""


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _cut(text: str) -> str:
    return text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 1]}…"
