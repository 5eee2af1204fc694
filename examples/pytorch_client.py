"""A small network in PyTorch with batch normalization.

    federated-client enroll URL --token TOKEN
    python -m examples.pytorch_client SEED ROUNDS

The model's tensors are those of the network's state_dict, BatchNorm's running statistics included.
"""

import sys

import torch
from torch import nn

from federated_client import Federation


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
    optimizer = torch.optim.SGD(network.train().parameters(), lr=0.1, momentum=0.9)
    for _ in range(20):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(features), labels).backward()
        optimizer.step()


def main(seed: int, rounds: int) -> None:
    """Score each aggregate on examples that are kept back, train it further, and send the result."""
    federation, network, (features, labels) = Federation(), new_network(), my_examples(seed)
    for round in federation.rounds(rounds, initial=network, poll=0.5):
        round.load_into(network)
        if round.number:
            right = network.eval()(features[250:]).argmax(dim=1) == labels[250:]
            federation.score(num_examples=50, accuracy=right.float().mean())
        train(network, features[:250], labels[:250])
        federation.submit(network, num_examples=250)
    print("the new aggregate is number", federation.wait(poll=0.5).number)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
