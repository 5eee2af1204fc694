"""Server optimizers: their steps are those of the papers, element by element."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregation.errors import RuleError
from aggregation.optimizers import NO_OPTIMIZER, Optimizer, create_optimizer, known_optimizers
from tests.aggregation.optimizers.oracles import trajectory

STEPPING = [name for name, kind in known_optimizers().items() if kind.takes_steps]
every_optimizer = pytest.mark.parametrize("name", STEPPING)


def steps(optimizer: Optimizer, parent: Any, results: Any) -> list[Any]:
    """Return the aggregates that an optimizer makes from a parent and the rule's results."""
    state = np.tile(optimizer.initial_state, (len(parent), 1))
    aggregates = []
    for result in results:
        step, state = optimizer.step(result - parent, state)
        parent = parent + step
        aggregates.append(parent)
    return aggregates


def arguments_of(name: str, draw: Any) -> dict[str, float]:
    """Draw arguments of an optimizer that differ from the defaults."""
    shares = st.floats(0.0, 0.999)
    choices = {"sgd": [], "fedavgm": ["beta"], "fedadagrad": ["beta1"]}
    names = choices.get(name, ["beta1", "beta2"])
    arguments = {each: draw(shares) for each in names}
    arguments["eta"] = draw(st.floats(1e-3, 10.0))
    if name.startswith("fedad") or name == "fedyogi":
        arguments["tau"] = draw(st.floats(1e-6, 1.0))
    return arguments


@every_optimizer
@given(data=st.data(), seed=st.integers(0, 999), scale=st.sampled_from([1e-6, 1e-2, 1.0, 1e3]))
def test_the_steps_are_those_of_the_paper(
    name: str, data: st.DataObject, seed: int, scale: float
) -> None:
    """Five rounds give the aggregates of the paper's algorithm in float64, to the last digits."""
    rng = np.random.default_rng(seed)
    parent, *results = scale * rng.normal(size=(6, 17))
    arguments = arguments_of(name, data.draw)
    made = steps(create_optimizer(name, arguments), parent, results)
    expected = trajectory(name, parent, results, arguments)
    for ours, theirs in zip(made, expected, strict=True):
        size = max(np.abs(theirs).max(), scale)
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12 * size)


@every_optimizer
def test_the_defaults_are_those_of_the_paper(name: str) -> None:
    """Without arguments, an optimizer has the paper's decays, degree of adaptivity and initial state."""
    parent, *results = np.random.default_rng(5).normal(size=(4, 11))
    made = steps(create_optimizer(name), parent, results)
    np.testing.assert_allclose(made, trajectory(name, parent, results, {}), rtol=1e-12)


@every_optimizer
@given(seed=st.integers(0, 999), cut=st.integers(0, 40))
def test_a_step_is_made_element_by_element(name: str, seed: int, cut: int) -> None:
    """The bits of a step and of the state do not depend on how the elements were cut."""
    optimizer = create_optimizer(name)
    rng = np.random.default_rng(seed)
    gradient, state = rng.normal(size=40), rng.uniform(size=(40, optimizer.slots))
    step, new = optimizer.step(gradient.copy(), state.copy())
    parts = [optimizer.step(gradient[s], state[s]) for s in (slice(cut), slice(cut, None))]
    assert np.concatenate([part for part, _ in parts]).tobytes() == step.tobytes()
    assert np.concatenate([part for _, part in parts]).tobytes() == new.tobytes()


@every_optimizer
def test_the_state_has_a_number_for_each_slot(name: str) -> None:
    """The initial state and the new one have as many numbers of each element as the optimizer says."""
    optimizer = create_optimizer(name)
    assert len(optimizer.initial_state) == optimizer.slots
    _, state = optimizer.step(np.ones(3), np.ones((3, optimizer.slots)))
    assert state.shape == (3, optimizer.slots)


def test_the_second_moment_starts_at_tau_squared() -> None:
    """Without a pseudo-gradient, the second moment decays from tau squared."""
    optimizer = create_optimizer("fedadam", {"tau": 0.5, "beta2": 0.5})
    step, state = optimizer.step(np.zeros(1), np.array([optimizer.initial_state]))
    assert (step[0], state[0, 1]) == (0.0, 0.125)


def test_none_is_the_default() -> None:
    """The optimizer named none comes first and takes no steps."""
    assert next(iter(known_optimizers())) == NO_OPTIMIZER.name == "none"
    assert not NO_OPTIMIZER.takes_steps


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("adam", {}, "unknown server optimizer 'adam'; known are none, fedadagrad, fedadam"),
        ("none", {"eta": 1.0}, "none takes no arguments"),
        ("sgd", {"eta": 0}, "sgd: eta must be a finite number, above 0.0; got 0"),
        ("sgd", {"learning_rate": 1}, "sgd takes the arguments eta; got"),
        ("fedavgm", {"beta": 1.0}, "beta must be a finite number, at least 0.0 and below 1.0"),
        ("fedadam", {"beta2": -0.1}, "beta2 must be"),
        ("fedadam", {"tau": 0.0}, "tau must be a finite number, above 0.0; got 0.0"),
        ("fedadagrad", {"beta2": 0.9}, "fedadagrad takes the arguments"),
        ("fedyogi", {"eta": float("nan")}, "eta must be"),
        ("fedyogi", {"beta1": "high"}, "beta1 must be"),
    ],
)
def test_wrong_names_and_arguments_are_refused(
    name: str, arguments: dict[str, Any], message: str
) -> None:
    """An unknown optimizer or argument, or one out of range, is refused with what is expected."""
    with pytest.raises(RuleError, match=message.replace("(", r"\(")):
        create_optimizer(name, arguments)
