"""A part in a federation: models of any kind, over storage of any kind.

`tests.examples` does the same with the frameworks themselves.
"""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from federated_client import BadArgument, BadWeights, Federation
from federated_client.frameworks import arrays_of, load_into
from federated_client.progress import progress_bar
from tests.client.members import Deliver, StorageOf, federation
from tests.factories import SMALL, client_id, filled


@pytest.fixture
def _delivering(deliver: Deliver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deliver the events of uploads whenever a client waits."""
    monkeypatch.setattr("time.sleep", lambda seconds: deliver())


@pytest.mark.usefixtures("database", "cloud", "_delivering")
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_federation_works_over_any_storage(storage_of: StorageOf, tmp_path: Path) -> None:
    """With IAM credentials and with presigned posts, by arrays and by files."""
    model = federation(1)
    member = Federation(storage=storage_of(model, 1), model_id=model.pk, client_id=client_id(1))
    for round_ in member.rounds(1):
        assert round_.number == 0
        trained = {name: array + 1 for name, array in round_.load_into(SMALL).items()}
        member.submit(trained, num_examples=1)
    assert member.wait().number == 1
    path = member.fetch_file(tmp_path / "base")
    safetensors.numpy.save_file(filled(2.0), path)
    member.submit(path, num_examples=1)
    assert member.wait().number == 2
    assert member.fetch().weights["w"][0, 0] == 2.0


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_progress_is_drawn_in_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a terminal a bar shows the bytes that were sent; elsewhere nothing is written."""
    for stream, is_drawn in ((Terminal(), True), (io.StringIO(), False)):
        monkeypatch.setattr(sys, "stderr", stream)
        with progress_bar("upload") as progress:
            assert (progress is not None) == is_drawn
            if progress:
                progress(1 << 20, 2 << 20)
        assert ("upload" in stream.getvalue()) == is_drawn


def test_a_storage_needs_ids() -> None:
    """Without a profile, the model and the client must be named."""
    with pytest.raises(BadArgument, match="give the model_id and the client_id"):
        Federation(storage=object(), model_id=1)  # type: ignore[arg-type]


def test_nested_mappings_are_named_by_their_paths() -> None:
    """A tree of arrays has the same structure after a round trip; a tensor that is missing is named."""
    tree = {"dense": {"kernel": np.ones((2, 3)), "bias": np.zeros(3)}}
    flat = arrays_of(tree)
    assert list(flat) == ["dense/kernel", "dense/bias"]
    back = load_into(tree, {name: array + 1 for name, array in flat.items()})
    assert back["dense"]["kernel"][0, 0] == 2
    with pytest.raises(BadWeights, match="has no tensor 'dense/bias'"):
        load_into(tree, {"dense/kernel": np.ones((2, 3))})


class Estimator:
    """What scikit-learn's estimators have in common."""

    def __init__(self, **learned: Any) -> None:
        vars(self).update(learned)

    def get_params(self) -> dict[str, Any]:
        return {}


def test_what_estimators_learn_keeps_its_type() -> None:
    """Lists of arrays stay lists, and numbers stay numbers."""
    estimator: Any = Estimator(coefs_=[np.ones(2), np.zeros(3)], intercept_=np.float64(1))
    learned = arrays_of(estimator)
    assert set(learned) == {"coefs_.0", "coefs_.1", "intercept_"}
    load_into(estimator, {name: array + 1 for name, array in learned.items()})
    assert estimator.coefs_[1].tolist() == [1.0, 1.0, 1.0]
    assert type(estimator.intercept_) is np.float64


@pytest.mark.parametrize("model", [Estimator(), object(), 3, "weights"])
def test_what_has_no_weights_is_refused(model: Any) -> None:
    """An estimator that was not fitted, and any other object, is an error that says what to do."""
    with pytest.raises(BadWeights, match="pass a mapping of names to arrays"):
        arrays_of(model)


def test_no_framework_is_imported_without_its_models() -> None:
    """Sending arrays of numpy imports neither PyTorch nor JAX nor boto3."""
    program = (
        "import sys, numpy as np, federated_client.federation\n"
        "from federated_client.frameworks import arrays_of\n"
        "arrays_of({'w': np.zeros(1)})\n"
        "print(*{'torch', 'jax', 'sklearn', 'peft', 'boto3', 'tqdm'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []
