"""Modules of PyTorch that come back as they were sent (``python -m tests.examples.torch_modules``)."""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from tests.examples.round_trips import round_trips

DTYPES = (
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8),
)


def scalars() -> nn.Module:
    """Return a module with parameters and buffers of zero dimensions, of every dtype."""
    module = nn.Module()
    module.scale = nn.Parameter(torch.tensor(2.65))
    module.empty = nn.Parameter(torch.zeros(0, 3))
    for number, dtype in enumerate(DTYPES):
        module.register_buffer(f"buffer_{number}", torch.tensor(number, dtype=dtype))
    return module


MODULES: dict[str, Callable[[], nn.Module]] = {
    "batch norm": lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)),
    "bfloat16": lambda: nn.Linear(8, 4).to(torch.bfloat16),
    "channels last": lambda: nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last),
    "half": lambda: nn.MultiheadAttention(8, 2).half(),
    "recurrent": lambda: nn.LSTM(4, 3, num_layers=2, bidirectional=True),
    "scalars": scalars,
    "tied": lambda: _tied(nn.Embedding(8, 4), nn.Linear(4, 8, bias=False)),
    "weight norm": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)),
}


def _tied(embedding: nn.Embedding, head: nn.Linear) -> nn.Module:
    head.weight = embedding.weight
    return nn.Sequential(embedding, head)


def _seeded(module: Callable[[], nn.Module], seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return module()


def _state(module: Callable[[], nn.Module], seed: int) -> dict[str, torch.Tensor]:
    return dict(_seeded(module, seed).state_dict())


def main() -> None:
    """Compare each tensor: dtype, shape and values."""
    cases = {
        name: (partial(_seeded, module, 1), partial(_seeded, module, 2))
        for name, module in MODULES.items()
    }
    state = partial(_state, MODULES["bfloat16"])
    for name, sent, found in round_trips(
        cases | {"a state_dict": (partial(state, 1), partial(state, 2))}
    ):
        states = [
            each.state_dict() if isinstance(each, nn.Module) else each for each in (sent, found)
        ]
        _compare(name, *states)


def _compare(name: str, sent: dict[str, torch.Tensor], found: dict[str, torch.Tensor]) -> None:
    assert found.keys() == sent.keys(), name
    for key, tensor in sent.items():
        assert (found[key].dtype, found[key].shape) == (tensor.dtype, tensor.shape), (name, key)
        assert torch.equal(found[key], tensor), (name, key)


if __name__ == "__main__":
    main()
