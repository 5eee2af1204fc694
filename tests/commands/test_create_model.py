"""`create_model` and `set_model`."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from django.contrib.auth import get_user_model
from django.core.management import CommandError, call_command

from connectors.storage.keys import pointer_key
from models_app.models import (
    Client,
    FederatedModel,
    ModelAggregate,
)
from tests.factories import (
    SMALL,
    client_id,
    get,
)
from tests.private_models import key_file

pytestmark = pytest.mark.usefixtures("database", "cloud")
RunCommand = Callable[..., str]
Lineage = list[ModelAggregate]


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "initial.safetensors"
    path.write_bytes(safetensors.numpy.save(SMALL))
    return path


def test_a_model_is_created_with_weights_and_clients(
    run_command: RunCommand, weights: Path
) -> None:
    """`create_model` stores the initial weights, creates the clients and writes `latest.json`."""
    out = json.loads(
        run_command(
            *("create_model", "digits", "--initial", weights, "--rule", "trimmed_mean"),
            *("--rule-arg", "beta=0.2", "--requirement", "quorum", "--requirement-arg", "x=3"),
            *("--requirement-arg", "after_minutes=30", "--clients", 2, "--client", client_id(1)),
            *("--furthest-base", 2, "--max-num-examples", 500, "--json"),
        )
    )
    model = FederatedModel.objects.get(pk=out["model"])
    assert (model.aggregator, model.aggregator_args) == ("trimmed_mean", {"beta": 0.2})
    assert model.requirement_args == {"x": 3, "after_minutes": 30}
    assert (model.furthest_base_agg, model.max_num_examples) == (2, 500)
    assert {str(pk) for pk in model.clients.values_list("pk", flat=True)} == set(out["clients"])
    assert str(client_id(1)) in out["clients"]
    assert model.current_artifact
    assert get(str(model.current_artifact.values.name)) == weights.read_bytes()
    assert json.loads(get(pointer_key(model.pk)))["number"] == 0


def test_a_model_is_created_with_its_score_settings(
    run_command: RunCommand, tmp_path: Path
) -> None:
    """`create_model` takes the metric, its direction, the margin, both schemas and the developer."""
    get_user_model().objects.create(username="ada")
    schema = {"type": "object", "required": ["loss"]}
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(schema))
    run_command(
        *("create_model", "digits", "--score-metric", "loss", "--lower-is-better"),
        *("--max-score-drop", 0.05, "--score-schema", path, "--update-schema", path),
        *("--developer", "ada"),
    )
    model = FederatedModel.objects.get()
    assert (model.score_metric, model.lower_is_better, model.max_score_drop) == ("loss", True, 0.05)
    assert model.client_agg_results_schema == model.update_schema == schema
    assert model.developer
    assert model.developer.username == "ada"


@pytest.mark.parametrize(
    ("options", "warning"),
    [
        (
            "--requirement require_x_updates --requirement-arg x=5 --clients 2",
            "needs 5 updates, and the model has 2",
        ),
        (
            "--rule krum --rule-arg f=3 --clients 1",
            "krum needs 9 updates, and the model has 1 client",
        ),
        ("--rule krum --rule-arg f=0 --clients 3", ""),
        (
            "--requirement quorum --requirement-arg x=3 --requirement-arg after_minutes=1 --clients 2",
            "",
        ),
        ("--rule krum --rule-arg f=3", ""),
    ],
)
def test_too_few_clients_for_a_round_are_reported(options: str, warning: str) -> None:
    """`create_model` warns if the model has too few clients for its rule or requirement."""
    notes = io.StringIO()
    options += " --max-num-examples 1000"
    call_command("create_model", "digits", *options.split(), stdout=io.StringIO(), stderr=notes)
    assert warning in notes.getvalue()
    assert bool(warning) is bool(notes.getvalue())


@pytest.mark.parametrize(
    ("options", "warning"),
    [
        ("", "ten times the median of its round. Set a cap: manage.py set_model"),
        ("--rule norm_filtered_mean --clients 5", "counts at most the median of its round"),
        ("--max-num-examples 1000", ""),
        ("--rule coordinate_median", ""),
    ],
)
def test_a_missing_cap_is_reported(options: str, warning: str) -> None:
    """`create_model` warns if claims weigh and nothing caps them but the default."""
    notes = io.StringIO()
    call_command("create_model", "digits", *options.split(), stdout=io.StringIO(), stderr=notes)
    assert warning in notes.getvalue()
    assert bool(warning) is bool(notes.getvalue())


@pytest.mark.parametrize("name", ["w.safetensors", "w.npz", "w.json"])
def test_initial_weights_are_finite(run_command: RunCommand, tmp_path: Path, name: str) -> None:
    """Initial weights that are not finite are refused with their place, and nothing is created."""
    layers: dict[str, Any] = {
        "v": np.zeros(3, np.float32),
        "w": np.array([[1, 2], [np.inf, 4]], np.float32),
    }
    path = tmp_path / name
    if name.endswith(".npz"):
        np.savez_compressed(path, **layers)
    elif name.endswith(".json"):
        path.write_text(json.dumps([each.tolist() for each in layers.values()]))
    else:
        path.write_bytes(safetensors.numpy.save(layers))
    with pytest.raises(CommandError, match="Infinity" if "json" in name else r"inf in tensor 'w'"):
        run_command("create_model", "digits", "--initial", path)
    assert not FederatedModel.objects.exists()


def test_clients_are_created_with_names(run_command: RunCommand) -> None:
    """`--client` takes a name or an id, of a client that exists or not."""
    known = Client.objects.create(name="ward 1")
    run_command(
        *("create_model", "digits", "--client", "ward 1", "--client", "ward 2"),
        *("--client", client_id(3), "--client", "ward 2"),
    )
    members = FederatedModel.objects.get().clients.order_by("name")
    assert [(each.name, each.pk) for each in members if each.name != "ward 2"] == [
        ("", client_id(3)),
        ("ward 1", known.pk),
    ]
    assert [each.name for each in members] == ["", "ward 1", "ward 2"]


@pytest.fixture
def network(tmp_path: Path) -> Path:
    path = tmp_path / "network.safetensors"
    tensors = {
        "fc.weight": np.zeros((2, 3), np.float32),
        "bn.running_var": np.ones(3, np.float32),
        "bn.num_batches_tracked": np.asarray(0),
        "head.bias": np.zeros(2, np.float16),
    }
    path.write_bytes(safetensors.numpy.save(tensors))
    return path


def test_a_dry_run_lists_each_tensor_with_its_policy(
    run_command: RunCommand, network: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`create_model --dry-run` and `tensors` show the policies; the first creates nothing."""
    options = ("--initial", network, "--tensor-policy", "head.*=exclude", "--furthest-base", 1)
    frozen = ("--freeze-even", "fc.*", "--freeze-odd", "nothing")
    create = ("create_model", "digits", *options, *frozen)
    rows = json.loads(run_command(*create, "--dry-run", "--json"))
    assert {row["tensor"]: row["policy"] for row in rows} == {
        "fc.weight": "frozen",
        "bn.running_var": "average",
        "bn.num_batches_tracked": "keep",
        "head.bias": "exclude",
    }
    assert {"tensor": "fc.weight", "dtype": "F32", "shape": "2x3", "policy": "frozen"} in rows
    assert not FederatedModel.objects.exists()
    run_command(*create)
    assert json.loads(run_command("tensors", "digits", "--json")) == rows
    model = FederatedModel.objects.get()
    assert model.tensor_policies == [["head.*", "exclude"]]
    pointer = json.loads(get(pointer_key(model.pk)))
    assert (pointer["tensor_policies"], pointer["frozen"]) == ([["head.*", "exclude"]], ["fc.*"])
    run_command(
        *("set_model", "digits", "--tensor-policy", "none", "--freeze-odd", "none"),
        *("--freeze-even", "none"),
    )
    model.refresh_from_db()
    assert (model.tensor_policies, model.freeze) == ([], {"odd": [], "even": []})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tensor-policy", "*=keep"], "freeze every tensor after an even aggregate"),
        (
            [
                "--freeze-even",
                "fc*",
                "--freeze-even",
                "h*",
                "--freeze-even",
                "bn*",
                "--furthest-base",
                "1",
            ],
            "freeze every tensor after an even aggregate",
        ),
        (
            ["--rule", "krum", "--rule-arg", "f=0", "--tensor-policy", "[fh]*=average"],
            "krum compares updates by their distances",
        ),
        (["--tensor-policy", "fc"], "given as GLOB=POLICY"),
        (["--tensor-policy", "fc=frozen"], "--tensor-policy: unknown tensor policy 'frozen'"),
        (
            ["--freeze-odd", "fc.*"],
            "--freeze-odd and --freeze-even: tensors that are frozen in turn",
        ),
    ],
)
def test_policies_that_do_not_fit_the_weights_are_refused(
    run_command: RunCommand, network: Path, options: list[str], message: str
) -> None:
    """Neither `create_model` nor its dry run accepts policies under which no round could work."""
    for extra in ([], ["--dry-run"]):
        with pytest.raises(CommandError, match=re.escape(message)):
            run_command("create_model", "digits", "--initial", network, *options, *extra)
    assert not FederatedModel.objects.exists()


def test_excluded_tensors_need_initial_weights_with_names(
    run_command: RunCommand, tmp_path: Path
) -> None:
    """Without initial weights, or with a JSON list of layers, no tensor can be excluded."""
    exclude = ("create_model", "digits", "--tensor-policy", "arr_0=exclude")
    with pytest.raises(CommandError, match="need initial weights"):
        run_command(*exclude)
    layers = tmp_path / "layers.json"
    layers.write_text("[[1.0], [2.0]]")
    with pytest.raises(CommandError, match="layers of a JSON list have no names"):
        run_command(*exclude, "--initial", layers)


def _simulation(folder: Path, **settings: Any) -> Path:
    path = folder / "simulation.json"
    path.write_text(json.dumps({"federated_model": settings}))
    return path


def test_a_model_is_created_from_a_simulation(run_command: RunCommand, tmp_path: Path) -> None:
    """The settings are those of the document; an option replaces one, and an argument joins the others."""
    settings = {
        "aggregator": "spectral_filter",
        "aggregator_args": {"f": 2},
        "pre_aggregation": ["normalize"],
        "server_optimizer": "fedavgm",
        "server_optimizer_args": {"beta": 0.5},
        "tensor_policies": [["head.*", "average"]],
        "max_num_examples": 70,
    }
    path = _simulation(tmp_path, **settings)
    run_command("create_model", "as-simulated", "--from", path, "--clients", 5)
    model = FederatedModel.objects.get(name="as-simulated")
    assert {name: getattr(model, name) for name in settings} == settings
    assert model.requirement == "all_clients"
    options = ("--optimizer-arg", "eta=0.7", "--rule", "multi_krum", "--rule-arg", "f=1")
    run_command("create_model", "changed", "--from", path, *options, "--pre-aggregation", "none")
    model = FederatedModel.objects.get(name="changed")
    assert (model.aggregator, model.aggregator_args) == ("multi_krum", {"f": 1})
    assert model.server_optimizer_args == {"beta": 0.5, "eta": 0.7}
    assert (model.pre_aggregation, model.max_num_examples) == ([], 70)


def test_a_private_simulation_creates_a_private_model(
    run_command: RunCommand, weights: Path, tmp_path: Path
) -> None:
    """The settings of differential privacy are taken over, and an option changes one of them."""
    private = {"clip_norm": 1.0, "noise_multiplier": 1.2, "cohort": 5, "delta": 1e-5}
    settings = {
        "aggregator": "unweighted_mean",
        "differential_privacy": private | {"max_epsilon": 8},
    }
    path = _simulation(tmp_path, **settings)
    options = ("--initial", weights, "--differential-privacy", "cohort=7")
    with key_file(tmp_path):
        run_command("create_model", "digits", "--from", path, *options)
    model = FederatedModel.objects.get()
    assert model.differential_privacy == private | {"max_epsilon": 8, "cohort": 7}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("no JSON", "has no settings of a simulation"),
        ("[]", 'expected an object with the settings under "federated_model"'),
        ('{"federated_model": {"rule": "krum"}}', "unknown setting 'rule'; known are aggregator,"),
        ('{"federated_model": {"aggregator": "krum"}}', "krum takes the arguments f"),
        ('{"federated_model": {"aggregator": []}}', "a setting has the wrong type"),
        ('{"federated_model": {"tensor_policies": 5}}', "tensor_policies must be a list"),
        ('{"federated_model": {"max_num_examples": 0}}', "max_num_examples must be a whole number"),
        ('{"federated_model": {"staleness": "polynomial"}}', "staleness needs furthest_base_agg"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(
    run_command: RunCommand, tmp_path: Path, document: str, message: str
) -> None:
    """`create_model --from` says what is wrong with the document, and creates nothing."""
    path = tmp_path / "simulation.json"
    path.write_text(document)
    with pytest.raises(CommandError, match=re.escape(message)):
        run_command("create_model", "digits", "--from", path)
    assert not FederatedModel.objects.exists()
