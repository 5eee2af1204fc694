"""The index of the decision pages."""

from __future__ import annotations

from local.reference.markdown import FOLDER, page, table


def decisions_page() -> str:
    """Return the index: every decision by date and file name, with its title."""
    rows = []
    for path in sorted((FOLDER / "decisions").glob("2*.md")):
        day, title = path.read_text().partition("\n")[0].removeprefix("# ").split(" ", 1)
        rows.append([day, f"[{title}]({path.name})"])
    return page(
        "Decisions",
        "There is one dated page for each choice that someone could question. It states the question, the "
        "choice, the alternatives, and how to undo it.",
        table(["day", "decision"], rows),
    )
