"""The index of decisions, from their titles."""

from __future__ import annotations

from local.reference.markdown import FOLDER, page, table


def decisions_page() -> str:
    """Every decision by its title; those of one day by their names."""
    rows = []
    for path in sorted((FOLDER / "decisions").glob("2*.md")):
        day, title = path.read_text().partition("\n")[0].removeprefix("# ").split(" ", 1)
        rows.append([day, f"[{title}]({path.name})"])
    return page(
        "Decisions",
        "One dated page for each choice that someone could question: the question, what was chosen, what "
        "else was weighed, how to undo it.",
        table(["day", "decision"], rows),
    )
