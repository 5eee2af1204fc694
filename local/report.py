"""The output of the demonstration: a line for each round, and tables at the end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.status import Status
from rich.table import Table
from rich.text import Text

from local.participant import Participant
from local.references import References
from local.script import Script

#: The columns of the rounds with their widths. One more column takes the rest of the line.
COLUMNS = {"round": 6, "updates": 8, "accuracy": 9, "seconds": 8}

#: The columns before that one, if several functions share a round, and if the model is private.
FUNCTIONS = {"functions": 10}
EPSILON = {"epsilon": 8}


@dataclass(frozen=True, kw_only=True)
class RoundReport:
    """The result of a round.

    Attributes
    ----------
    rejected : dict of str to str
        The names of the clients whose updates were rejected, with the reasons.
    accuracy : float
        Accuracy of the round's aggregate on the test set.
    seconds : float
        Time from the first upload to the aggregate.
    functions : int
        Functions that shared the round.
    epsilon : float or None
        What a private model has spent after the round; None for other models.
    spent : str
        The same in words, with the limit and the neighbouring relation; empty for other models.
    """

    number: int
    updates_used: int
    rejected: dict[str, str]
    accuracy: float
    seconds: float
    functions: int
    epsilon: float | None = None
    spent: str = ""


class Report:
    """Writes to a console. The lines are the same on a terminal and in a file.

    Parameters
    ----------
    console : Console
    n_clients, n_rounds : int
    with_functions : bool
        Whether to print how many functions shared each round.
    with_epsilon : bool
        Whether to print what a private model has spent after each round.
    """

    def __init__(
        self,
        console: Console,
        n_clients: int,
        n_rounds: int,
        *,
        with_functions: bool,
        with_epsilon: bool = False,
    ) -> None:
        functions = FUNCTIONS if with_functions else {}
        self._columns = COLUMNS | functions | (EPSILON if with_epsilon else {})
        self._console = console
        self._n_clients = n_clients
        self._n_rounds = n_rounds

    @contextmanager
    def status(self, step: str) -> Iterator[Status]:
        """Show the current step, on a terminal only."""
        with self._console.status(step) as status:
            yield status

    def heading(self) -> None:
        """Print the heading of the rounds."""
        self._line([*self._columns, "rejected"], style="bold")

    def round(self, report: RoundReport) -> None:
        """Print the line of a round."""
        rejected = [f"{name}: {reason}" for name, reason in report.rejected.items()]
        cells = {
            "round": f"{report.number}/{self._n_rounds}",
            "updates": f"{report.updates_used}/{self._n_clients}",
            "accuracy": f"{report.accuracy:.3f}",
            "seconds": f"{report.seconds:.2f}",
            "functions": str(report.functions),
            "epsilon": "" if report.epsilon is None else f"{report.epsilon:.3f}",
        }
        self._line([*(cells[name] for name in self._columns), "\n".join(rejected)])

    def clients(
        self,
        participants: Sequence[Participant],
        references: References,
        scores: Mapping[int, float],
        script: Script,
    ) -> None:
        """Print a table of the clients: the accuracy of each alone, and in the federation."""
        table = Table(title="\nClients", title_justify="left", title_style="bold")
        for column in ("client", "examples", "alone", "federated"):
            table.add_column(column, justify="right")
        table.add_column("remark")
        for each in participants:
            table.add_row(
                str(each.index + 1),
                str(len(each.training)),
                f"{references.alone[each.index]:.3f}",
                f"{scores[each.index]:.3f}" if each.index in scores else "",
                script.remark(each.index),
            )
        self._console.print(table)
        self._console.print(
            "alone: its own model on the test set; federated: the last aggregate on its held-out part",
            style="dim",
        )

    def outcome(self, federated: float, references: References, spent: str = "") -> None:
        """Print the accuracy of the federated model beside the references, and what privacy it spent."""
        table = Table(title="\nAccuracy on the test set", title_justify="left", title_style="bold")
        table.add_column("model")
        table.add_column("accuracy", justify="right")
        table.add_row("federated", f"[bold green]{federated:.3f}")
        table.add_row("trained centrally", f"{references.central:.3f}")
        table.add_row("clients alone, mean", f"{references.mean_alone:.3f}")
        self._console.print(table)
        if spent:
            self._console.print(f"Privacy: {spent}", highlight=False)

    def places(self, places: Mapping[str, Path]) -> None:
        """Print the paths of the results."""
        self._console.print("\nResults", style="bold")
        for name, path in places.items():
            self._console.print(f"  {name:<18}{path}", soft_wrap=True, highlight=False)

    def _line(self, cells: Sequence[str], style: str = "") -> None:
        line = Table.grid(padding=(0, 2, 0, 0))
        for width in self._columns.values():
            line.add_column(width=width, justify="right", no_wrap=True)
        line.add_column()
        line.add_row(
            *map(Text, cells), style=style
        )  # Reasons quote names of clients, which are no markup.
        self._console.print(line, highlight=False)
