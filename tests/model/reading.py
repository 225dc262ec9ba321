"""What goes into down-projections, read the slow way: hooks by hand, one unpadded text a pass."""

import torch

DOWN = {
    "llama": "model.layers.{}.mlp.down_proj",
    "gpt2": "transformer.h.{}.mlp.c_proj",
    "gpt_neox": "gpt_neox.layers.{}.mlp.dense_4h_to_h",
    "opt": "model.decoder.layers.{}.fc2",
}
"""Qualified names; GPT-2's is a Conv1D, OPT's gets flattened positions."""

ROOM = {
    "llama": {"max_position_embeddings": 256},
    "gpt2": {"n_positions": 256},
    "gpt_neox": {"max_position_embeddings": 256},
    "opt": {"max_position_embeddings": 256},
}
"""Sampled bytes that are no character take three tokens each when they are read again."""


def inputs_by_hand(lm, module, text):
    """(position, width), in the model's own type."""
    seen = []
    handle = lm.model.get_submodule(module).register_forward_pre_hook(
        lambda _, args: seen.append(args[0].detach().clone())
    )
    try:
        with torch.no_grad():
            lm.model(input_ids=torch.tensor([lm.encode(text).ids]))
    finally:
        handle.remove()
    (values,) = seen
    return values.reshape(-1, values.shape[-1])


def hooks_on(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def write_to(lm):
    """Changes one number of each weight, and says so."""
    with torch.no_grad():
        for parameter in lm.model.parameters():
            parameter.view(-1)[0] += 1
    lm.changed()
