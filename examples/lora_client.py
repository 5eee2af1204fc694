"""A LoRA adapter of a Hugging Face model; the base model is never sent.

    federated-client enroll URL --token TOKEN
    python -m examples.lora_client SEED ROUNDS

Only the factors that the model's schedule does not freeze are trained, so that their mean is exact. Without
arguments, this prints how far off a round of three clients is with and without a schedule.
"""

import sys
from collections.abc import Callable

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from transformers import GPT2Config, GPT2LMHeadModel

from federated_client import Federation

TOKENS, LAYER = 16, "base_model.model.transformer.h.0.mlp.c_fc.lora_"


def my_examples(seed: int) -> torch.Tensor:
    """Return sequences that count modulo 16, in place of what only this client has."""
    starts = torch.randint(TOKENS, (64, 1), generator=torch.Generator().manual_seed(seed))
    return (starts + torch.arange(8)) % TOKENS


def new_model() -> torch.nn.Module:
    """Return the same base for every client, as `from_pretrained` does, with a new adapter."""
    torch.manual_seed(0)
    shape = {"vocab_size": TOKENS, "n_positions": 8, "n_embd": 32, "n_layer": 1, "n_head": 2}
    config = LoraConfig(r=16, target_modules=["c_attn", "c_proj", "c_fc"], fan_in_fan_out=True)
    return get_peft_model(GPT2LMHeadModel(GPT2Config(**shape)), config)


def train(model: torch.nn.Module, texts: torch.Tensor, is_frozen: Callable[[str], bool]) -> None:
    """Take some steps on the client's own examples; only the adapter's other factors move."""
    for name, parameter in model.named_parameters():
        # The name in the adapter's file lacks that of the adapter.
        parameter.requires_grad = "lora_" in name and not is_frozen(name.replace(".default.", "."))
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        model.train()(input_ids=texts, labels=texts).loss.backward()
        optimizer.step()


def averaging_error(is_frozen: Callable[[str], bool]) -> torch.Tensor:
    """Return how far the product of three clients' mean factors is from the mean of their products."""
    a, b = [], []
    for seed in (1, 2, 3):
        train(model := new_model(), my_examples(seed), is_frozen)
        adapter = get_peft_model_state_dict(model)
        a.append(adapter[f"{LAYER}A.weight"])
        b.append(adapter[f"{LAYER}B.weight"])
    exact = sum(map(torch.matmul, b, a)) / 3
    return (sum(b) / 3 @ (sum(a) / 3) - exact).norm() / exact.norm()


def main(seed: int, rounds: int) -> None:
    """Score each aggregate on examples that are kept back, train it further, and send the result."""
    federation, model, texts = Federation(), new_model(), my_examples(seed)
    for round in federation.rounds(rounds, initial=model, poll=0.5):
        round.load_into(model)
        if round.number:
            guesses = model.eval()(input_ids=texts[48:]).logits[:, :-1].argmax(dim=-1)
            federation.score(num_examples=16, accuracy=(guesses == texts[48:, 1:]).float().mean())
        train(model, texts[:48], round.is_frozen)
        federation.submit(model, num_examples=48)
    print("the new aggregate is number", federation.wait(poll=0.5).number)


if __name__ == "__main__":
    if sys.argv[1:]:
        main(*map(int, sys.argv[1:]))
    else:
        print(f"both factors averaged: error {averaging_error(lambda name: False):.3%}")
        print(f"lora_A frozen: error {averaging_error(lambda name: 'lora_A' in name):.3%}")
