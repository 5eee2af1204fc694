"""The history of a simulation as tables, a plot and files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from aggregation.model_settings import ModelSettings
from laboratory import BadArgument, Update, simulate
from tests.laboratory.federation import evaluate, run


def test_a_table_has_a_row_for_each_round_and_client() -> None:
    """The columns are the fields of the records, and the metrics of clients and rounds."""

    def train(model: Any, data: float, rng: np.random.Generator) -> Update:
        return Update([model[0] + data], 5, metrics={"loss": data})

    history = simulate(
        train,
        {"north": 1.0, "south": 2.0},
        rounds=3,
        seed=1,
        initial=[np.zeros(2)],
        evaluate=lambda model: {"first": model[0][0]},
        drop_out=lambda number, client: client == "south" and number == 3,
    )
    table = history.to_dataframe()
    assert list(table.columns) == [
        *("round", "status", "client", "hostile", "sent", "used", "weight", "norm", "contribution"),
        *("rejection", "num_examples", "rounds_late", "client_loss", "first"),
    ]
    assert table["client"].tolist() == ["north", "south"] * 3
    assert table["weight"].tolist() == [0.5, 0.5, 0.5, 0.5, 1.0, 0.0]
    assert table["first"].tolist() == [1.5, 1.5, 3.0, 3.0, 4.0, 4.0]
    assert table["norm"].iloc[0] == pytest.approx(2**0.5)
    rounds = history.to_dataframe(by="rounds")
    assert rounds["used"].tolist() == rounds["sent"].tolist() == [2, 2, 1]
    assert rounds["first"].tolist() == history.metrics["first"] == [1.5, 3.0, 4.0]
    with pytest.raises(BadArgument, match="by must be 'clients' or 'rounds'; got 'models'"):
        history.to_dataframe(by="models")


def test_the_plot_shows_the_metrics_and_the_weights() -> None:
    """The curve has the metric of each round, and the picture the weight of each client, by name."""
    history = run(rule="multi_krum(f=2)", attack="ALIE", hostile=2)
    figure = history.plot()
    curve, clients, _ = figure.axes
    assert curve.get_title() == "multi_krum, ALIE"
    assert list(np.asarray(curve.lines[0].get_ydata())) == history.metrics["score"]
    assert np.asarray(clients.images[0].get_array()).shape == (7, 5)
    labels = [label.get_text() for label in clients.get_yticklabels()]
    assert labels == ["0", "1", "2", "3", "4", "5 (hostile)", "6 (hostile)"]


def test_settings_are_written_and_read_again(tmp_path: Path) -> None:
    """The document has the model's settings, and how they were simulated."""
    path = tmp_path / "simulation.json"
    history = run(
        rule="krum(f=1)",
        optimizer="fedavgm(beta=0.5)",
        requirement="require_fraction(f=0.5)",
        attack="ALIE",
        hostile=1,
        rounds=2,
        drop_out=0.1,
    )
    history.save_settings(path)
    document = json.loads(path.read_text())
    assert ModelSettings.from_json(document) == history.settings
    assert document["federated_model"]["requirement_args"] == {"f": 0.5}
    assert document["simulation"] == {
        "clients": 7,
        "rounds": 2,
        "seed": 7,
        "attack": "ALIE",
        "hostile": 1,
        "drop_out": 0.1,
    }


def test_a_requirement_that_was_not_named_is_left_to_the_model(tmp_path: Path) -> None:
    """Settings that only the model can decide are not in the document."""
    path = tmp_path / "simulation.json"
    run(rounds=1).save_settings(path)
    assert "requirement" not in json.loads(path.read_text())["federated_model"]


def test_weights_are_written_in_the_format_of_the_extension(tmp_path: Path) -> None:
    """safetensors and npz hold the same arrays; another extension is refused."""
    history = run(rounds=1)
    for name, load in (("w.safetensors", load_file), ("w.npz", np.load)):
        history.save_weights(tmp_path / name)
        found = load(tmp_path / name)
        assert {each: found[each].tolist() for each in ("w", "b")} == {
            each: array.tolist() for each, array in history.weights.items()
        }
    with pytest.raises(BadArgument, match=r"'w.pickle' is in none of the formats"):
        history.save_weights(tmp_path / "w.pickle")


def test_weights_that_do_not_exist_are_not_written(tmp_path: Path) -> None:
    """If no round was published and training started from nothing, there is nothing to write."""
    history = simulate(
        lambda model, data, rng: [np.array([np.nan])], [1, 2], rounds=1, seed=1, evaluate=evaluate
    )
    assert history.rounds[0].status == "rejected"
    assert history.metrics == {}
    with pytest.raises(BadArgument, match="there are no weights: no round was published"):
        history.save_weights(tmp_path / "w.npz")
