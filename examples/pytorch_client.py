"""A small network in PyTorch, trained for one round.

    python -m examples.pytorch_client BUCKET MODEL_ID CLIENT_ID

The model's tensors are those of the network's state_dict, by name.
"""

import sys

import torch
from torch import nn

from federated_client import Bucket, Client, NotThere


def my_examples(seed):
    """Stands for what only this client has: 300 noisy copies of ten prototypes."""
    prototypes = torch.randn(10, 64, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(10, (300,), generator=generator)
    return prototypes[labels] + torch.randn(300, 64, generator=generator), labels


def new_network():
    """The same for every client: the first round starts from it."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def train(network, features, labels, steps=20):
    """Some steps on the client's own examples."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(features), labels).backward()
        optimizer.step()


def main(bucket, model_id, client_id):
    """Fetch, train, upload, wait, report."""
    me = Client(Bucket(bucket), model_id=int(model_id), client_id=client_id)
    features, labels = my_examples(seed=int(client_id[-4:], 16))
    network = new_network()
    try:
        network.load_state_dict({k: torch.from_numpy(v) for k, v in me.fetch().items()})
    except NotThere:
        print("the first round starts from the new network")
    train(network, features[:250], labels[:250])
    me.upload({k: v.numpy() for k, v in network.state_dict().items()}, num_examples=250)
    print("uploaded; waiting for the round")
    print("the new aggregate is number", me.wait(poll=0.2).number)
    network.load_state_dict({k: torch.from_numpy(v) for k, v in me.fetch().items()})
    right = (network(features[250:]).argmax(dim=1) == labels[250:]).float().mean().item()
    me.report_score(num_examples=50, accuracy=right)
    print(f"it is right about {right:.0%} of my own examples")


if __name__ == "__main__":
    main(*sys.argv[1:])
