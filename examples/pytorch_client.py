"""A small network in PyTorch with batch normalization, trained for one round.

    python -m examples.pytorch_client BUCKET MODEL_ID CLIENT_ID

The model's tensors are those of the network's state_dict, BatchNorm's running statistics included.
"""

import sys

import torch
from torch import nn

from federated_client import Bucket, Client
from federated_client.pytorch import tensors


def my_examples(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return 300 noisy copies of ten prototypes, in place of what only this client has."""
    prototypes = torch.randn(10, 64, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(10, (300,), generator=generator)
    return prototypes[labels] + torch.randn(300, 64, generator=generator), labels


def new_network() -> nn.Module:
    """Return the network from which the first round starts, the same for every client."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10))


def train(network: nn.Module, features: torch.Tensor, labels: torch.Tensor) -> None:
    """Take some steps on the client's own examples."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    for _ in range(20):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(features), labels).backward()
        optimizer.step()


def main(bucket: str, model_id: str, client_id: str) -> None:
    """Fetch, train, upload, wait, report."""
    me = Client(Bucket(bucket), model_id=int(model_id), client_id=client_id)
    features, labels = my_examples(seed=int(client_id[-4:], 16))
    network = new_network()
    network.load_state_dict(tensors(me.fetch(initial=network.state_dict())))
    train(network, features[:250], labels[:250])
    me.upload(network.state_dict(), num_examples=250)
    print("the new aggregate is number", me.wait(poll=0.2).number)
    network.load_state_dict(tensors(me.fetch()))
    guesses = network.eval()(features[250:]).argmax(dim=1)
    me.report_score(num_examples=50, accuracy=(guesses == labels[250:]).float().mean())


if __name__ == "__main__":
    main(*sys.argv[1:])
