"""Models as training uses them, and as arrays by name: numpy, PyTorch, JAX, scikit-learn."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aggregation.errors import UpdateRejected
from aggregation.in_memory import as_array, is_array
from aggregation.layout import layer_name
from federated_client import frameworks
from federated_client.errors import BadWeights
from laboratory.errors import BadArgument

Arrays = dict[str, NDArray[Any]]


class ModelKind:
    """The kind of model that training takes and returns.

    Parameters
    ----------
    example : Any
        A mapping, a list or a tuple of arrays, also nested; an array; a module of PyTorch; or an estimator
        of scikit-learn that was fitted. Arrays may be of numpy, PyTorch or JAX. It is not changed.
    """

    def __init__(self, example: Any) -> None:
        self._example = copy.deepcopy(example)

    def model(self, arrays: Mapping[str, NDArray[Any]]) -> Any:
        """Return a new model of this kind with the given weights, which training may change."""
        example = self._example
        if _is_tree(example):
            return _grown(example, arrays, "")
        return frameworks.load_into(copy.deepcopy(example), _copies(arrays))


def arrays_of(model: Any) -> Arrays:
    """Return copies of a model's weights by name.

    The tensors of nested mappings are named by their paths, with slashes between; those of a list are
    numbered, ``arr_0``, ``arr_1`` and so on. Other models have the names that a client sends.

    Raises
    ------
    BadArgument
        If it is no model, or a weight is no array of a dtype that a model can have.
    """
    try:
        named = dict(_leaves(model, "")) if _is_tree(model) else frameworks.arrays_of(model)
        return _copies({str(name): as_array(str(name), leaf) for name, leaf in named.items()})
    except (BadWeights, UpdateRejected) as error:
        raise BadArgument(str(error)) from error


def _copies(arrays: Mapping[str, NDArray[Any]]) -> Arrays:
    return {name: np.array(array, order="C") for name, array in arrays.items()}


def _is_tree(model: Any) -> bool:
    """Return whether a model is an array, or mappings and sequences of arrays that are not of JAX.

    Pytrees of JAX are left to the client's code, so that their tensors have the same names in a federation.
    """
    return is_array(model) or (isinstance(model, Mapping | list | tuple) and not _has_jax(model))


def _has_jax(tree: Any) -> bool:
    if isinstance(tree, Mapping):
        return any(map(_has_jax, tree.values()))
    if isinstance(tree, list | tuple):
        return any(map(_has_jax, tree))
    return type(tree).__module__.partition(".")[0] in ("jax", "jaxlib")


def _leaves(tree: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """Yield the arrays of a tree with their names."""
    if isinstance(tree, Mapping):
        children = [(f"{prefix}{name}", child) for name, child in tree.items()]
    elif isinstance(tree, list | tuple):
        children = [(_numbered(prefix, number), child) for number, child in enumerate(tree)]
    else:
        children = [(layer_name(0), tree)]
    for name, child in children:
        if isinstance(child, Mapping) or _is_sequence_of_arrays(child):
            yield from _leaves(child, f"{name}/")
        else:
            yield name, child


def _grown(tree: Any, arrays: Mapping[str, NDArray[Any]], prefix: str) -> Any:
    """Return a tree of the same kind with other arrays."""
    if isinstance(tree, Mapping):
        return {name: _child(child, arrays, f"{prefix}{name}") for name, child in tree.items()}
    if isinstance(tree, list | tuple):
        children = [
            _child(child, arrays, _numbered(prefix, number)) for number, child in enumerate(tree)
        ]
        if isinstance(tree, list):
            return children
        return type(tree)(*children) if hasattr(tree, "_fields") else tuple(children)
    return _like(tree, arrays[layer_name(0)])


def _child(child: Any, arrays: Mapping[str, NDArray[Any]], name: str) -> Any:
    if isinstance(child, Mapping) or _is_sequence_of_arrays(child):
        return _grown(child, arrays, f"{name}/")
    return _like(child, arrays[name])


def _is_sequence_of_arrays(value: Any) -> bool:
    """Return whether a value is a branch of a tree, rather than an array in the form of nested lists."""
    return isinstance(value, list | tuple) and any(
        is_array(each) or isinstance(each, Mapping) or _is_sequence_of_arrays(each)
        for each in value
    )


def _numbered(prefix: str, number: int) -> str:
    return f"{prefix}{number}" if prefix else layer_name(number)


def _like(leaf: Any, array: NDArray[Any]) -> Any:
    """Return a copy of an array, as a tensor of PyTorch if a leaf is one."""
    array = np.array(array, order="C")
    if hasattr(leaf, "detach") and hasattr(leaf, "cpu"):
        from federated_client.pytorch import tensors

        return tensors({"": array})[""]
    return array
