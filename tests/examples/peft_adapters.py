"""Adapters of PEFT that come back as they were sent: ``python -m tests.examples.peft_adapters``."""

from functools import partial

import torch
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from transformers import GPT2Config, GPT2LMHeadModel

from tests.examples.round_trips import round_trips

LORA = partial(LoraConfig, r=4, target_modules=["c_attn"], fan_in_fan_out=True)
IA3 = partial(
    IA3Config, target_modules=["c_attn", "c_proj"], feedforward_modules=[], fan_in_fan_out=True
)


def adapted(config: partial[LoraConfig | IA3Config], name: str, seed: int) -> PeftModel:
    """Return the same base with an adapter whose values follow from the seed."""
    torch.manual_seed(0)
    shape = {"vocab_size": 16, "n_positions": 8, "n_embd": 32, "n_layer": 1, "n_head": 2}
    model = get_peft_model(GPT2LMHeadModel(GPT2Config(**shape)), config(), adapter_name=name)
    torch.manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter)
    return model


def main() -> None:
    """Compare the adapters' tensors, that nothing else was sent, and what the models compute."""
    kinds = {"LoRA": (LORA, "default"), "a named adapter": (LORA, "ours"), "IA3": (IA3, "default")}
    cases = {
        name: (partial(adapted, *kind, seed=1), partial(adapted, *kind, seed=2))
        for name, kind in kinds.items()
    }
    texts = torch.arange(8)[None]
    for name, sent, found in round_trips(cases):
        adapter = sent.active_adapter
        expected = get_peft_model_state_dict(sent, adapter_name=adapter)
        loaded = get_peft_model_state_dict(found, adapter_name=adapter)
        assert loaded.keys() == expected.keys(), name
        assert all(torch.equal(loaded[key], expected[key]) for key in expected), name
        assert torch.equal(sent.eval()(texts).logits, found.eval()(texts).logits), name


if __name__ == "__main__":
    main()
