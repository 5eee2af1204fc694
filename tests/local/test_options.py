"""Tests of the demonstration's command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from local.options import Options, parse_options


def test_every_option_is_parsed(tmp_path: Path) -> None:
    """Every option has an effect, and the folder becomes absolute."""
    line = "--clients 20 --rounds 30 --db postgres --functions 4 --seed 0 --out there"
    assert parse_options(line.split()) == Options(
        clients=20,
        rounds=30,
        database="postgres",
        functions=4,
        privacy="none",
        seed=0,
        out=Path.cwd() / "there",
    )
    assert parse_options(["--privacy", "secure"]).privacy == "secure"
    assert parse_options(["--privacy", "dp", "--functions", "2"]).privacy == "dp"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--clients", "2"], "argument --clients: expected a whole number from 3 to 50, got '2'"),
        (["--clients", "51"], "argument --clients: expected a whole number from 3 to 50, got '51'"),
        (["--rounds", "x"], "argument --rounds: expected a whole number from 2 to 500, got 'x'"),
        (["--functions", "0"], "argument --functions: expected a whole number from 1 to 16, got"),
        (["--functions", "17"], "argument --functions: expected a whole number from 1 to 16, got"),
        (["--seed", "-1"], "argument --seed: expected a whole number from 0, got '-1'"),
        (["--privacy", "secure", "--functions", "2"], "leave --functions at 1"),
        (["--privacy", "secure", "--clients", "3"], "needs --clients 4 or more"),
        (["--db", "oracle"], "argument --db: invalid choice: 'oracle'"),
    ],
)
def test_wrong_option_is_refused(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message has the option, what was expected and what was given."""
    with pytest.raises(SystemExit) as ended:
        parse_options(arguments)
    assert ended.value.code == 2
    assert sentence in capsys.readouterr().err
