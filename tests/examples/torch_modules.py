"""Send a module's state_dict, wait for the round, and compare what comes back with what was sent.

python -m tests.examples.torch_modules BUCKET MODEL_ID CLIENT_ID MODULE
"""

import sys
from collections.abc import Callable

import torch
from torch import nn

from federated_client import Bucket, Client
from federated_client.pytorch import tensors

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


def main(bucket: str, first_model_id: str, client_id: str) -> None:
    """Use one model for each module, and compare each tensor: dtype, shape and values."""
    for model_id, (name, module) in enumerate(MODULES.items(), int(first_model_id)):
        torch.manual_seed(1)
        sent = module().state_dict()
        me = Client(Bucket(bucket), model_id=model_id, client_id=client_id)
        me.upload(sent, num_examples=3)
        me.wait(poll=0.1, timeout=60)
        found = tensors(me.fetch())
        assert found.keys() == sent.keys(), name
        for key, tensor in sent.items():
            assert (found[key].dtype, found[key].shape) == (tensor.dtype, tensor.shape), (name, key)
            assert torch.equal(found[key], tensor), (name, key)
        module().load_state_dict(found)


if __name__ == "__main__":
    main(*sys.argv[1:])
