"""Send models through federations of one client, and return what comes back.

It runs in the environment of the examples. ``TOKENS`` has a token for each model.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from federated_client import Federation

Cases = Mapping[str, tuple[Callable[[], Any], Callable[[], Any]]]


def round_trips(cases: Cases) -> Iterator[tuple[str, Any, Any]]:
    """Yield the name of each case, the model that was sent, and another one after it was loaded.

    Parameters
    ----------
    cases : mapping
        By name, what creates the model that is sent, and what creates the one that receives its weights.
    """
    tokens = os.environ["TOKENS"].split()
    for token, (name, (sent, received)) in zip(tokens, cases.items(), strict=True):
        model = sent()
        profile = f"model-{tokens.index(token)}"
        federation = Federation.enroll(os.environ["URL"], token, profile=profile)
        federation.submit(model, num_examples=1)
        federation.wait(poll=0.1, timeout=60)
        yield name, model, federation.fetch().load_into(received())
