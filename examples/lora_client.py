"""A LoRA adapter of a Hugging Face model, trained for one round; the base model is never sent.

    python -m examples.lora_client BUCKET MODEL_ID CLIENT_ID

The model's tensors are those of adapter_model.safetensors, as `save_pretrained` writes it.
"""

import sys

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from transformers import GPT2Config, GPT2LMHeadModel

from federated_client import Bucket, Client, NotThere

TOKENS = 16


def my_examples(seed):
    """Stands for what only this client has: counting, from 0 to 15 and around."""
    starts = torch.randint(TOKENS, (64, 1), generator=torch.Generator().manual_seed(seed))
    return (starts + torch.arange(8)) % TOKENS


def new_model():
    """Stands for `from_pretrained`: the same base for every client, with a new adapter."""
    torch.manual_seed(0)
    shape = {"vocab_size": TOKENS, "n_positions": 8, "n_embd": 32, "n_layer": 1, "n_head": 2}
    config = LoraConfig(r=16, target_modules=["c_attn", "c_proj", "c_fc"], fan_in_fan_out=True)
    return get_peft_model(GPT2LMHeadModel(GPT2Config(**shape)), config)


def train(model, texts, steps=60):
    """Some steps on the client's own examples; only the adapter moves."""
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        model(input_ids=texts, labels=texts).loss.backward()
        optimizer.step()


def main(bucket, model_id, client_id):
    """Fetch, train, upload, wait, report."""
    me = Client(Bucket(bucket), model_id=int(model_id), client_id=client_id)
    texts, model = my_examples(seed=int(client_id[-4:], 16)), new_model()
    try:
        set_peft_model_state_dict(model, {k: torch.from_numpy(v) for k, v in me.fetch().items()})
    except NotThere:
        print("the first round starts from the new adapter")
    train(model, texts[:48])
    me.upload({k: v.numpy() for k, v in get_peft_model_state_dict(model).items()}, num_examples=48)
    print("the new aggregate is number", me.wait(poll=0.2).number)
    set_peft_model_state_dict(model, {k: torch.from_numpy(v) for k, v in me.fetch().items()})
    guessed = model.eval()(input_ids=texts[48:]).logits[:, :-1].argmax(dim=-1)
    me.report_score(num_examples=16, accuracy=(guessed == texts[48:, 1:]).float().mean().item())


if __name__ == "__main__":
    main(*sys.argv[1:])
