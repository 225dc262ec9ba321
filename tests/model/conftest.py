"""The zoo: a tiny random model of each architecture, two blocks and a stream of width 32."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

VOCABULARY = 40
TOKENS = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
GPT = TOKENS | {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
LLAMA = TOKENS | {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
HEADS = LLAMA | {"head_dim": 8}
WINDOW = HEADS | {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2}
LOCAL_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
NARROW_EXPERTS = EXPERTS | {"moe_intermediate_size": 24}
PER_LAYER = {"hidden_size_per_layer_input": 16, "vocab_size_per_layer_input": VOCABULARY}
LINEAR_ATTENTION = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"],
}
LATENT_ATTENTION = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 8,
    "q_lora_rank": 8,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
}

ZOO: dict[str, dict[str, Any]] = {
    "apertus": LLAMA,
    "arcee": LLAMA,
    "bamba": HEADS
    | {"mamba_d_state": 8, "mamba_n_heads": 4, "mamba_n_groups": 1, "mamba_d_head": 16},
    "biogpt": LLAMA,
    "bitnet": LLAMA,
    "bloom": TOKENS | {"hidden_size": 32, "n_layer": 2, "n_head": 4},
    "codegen": GPT | {"n_ctx": 64, "rotary_dim": 4},
    "cohere": LLAMA,
    "cohere2": WINDOW,
    "ctrl": TOKENS | {"n_embd": 32, "n_layer": 2, "n_head": 4, "dff": 48, "n_positions": 64},
    "deepseek_v3": LLAMA
    | LATENT_ATTENTION
    | {
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 24,
        "first_k_dense_replace": 1,
        "n_group": 1,
        "topk_group": 1,
    },
    "diffllama": LLAMA,
    "ernie4_5": HEADS,
    "exaone4": WINDOW,
    "falcon": TOKENS | {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4},
    "gemma": HEADS,
    "gemma2": WINDOW,
    "gemma3_text": WINDOW,
    "gemma4_text": WINDOW | PER_LAYER | {"global_head_dim": 8},
    "glm": HEADS,
    "glm4": HEADS,
    "gpt2": GPT,
    "gpt_bigcode": GPT,
    "gpt_neo": TOKENS
    | {
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 4,
        "max_position_embeddings": 64,
        "attention_types": [[["global", "local"], 1]],
        "window_size": 8,
    },
    "gpt_neox": LLAMA,
    "gpt_oss": WINDOW | LOCAL_EXPERTS | {"rope_parameters": {"rope_type": "default"}},
    "gptj": GPT | {"rotary_dim": 4},
    "granite": LLAMA,
    "granitemoe": LLAMA | LOCAL_EXPERTS,
    "helium": HEADS,
    "hunyuan_v1_dense": HEADS,
    "jamba": LLAMA
    | {
        "num_experts": 2,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "mamba_d_state": 4,
    },
    "lfm2": LLAMA | {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False},
    "llama": LLAMA,
    "llama4_text": HEADS
    | LOCAL_EXPERTS
    | {"intermediate_size_mlp": 48, "interleave_moe_layer_step": 2},
    "mamba": TOKENS | {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
    "mistral": LLAMA,
    "mixtral": LLAMA | LOCAL_EXPERTS,
    "mpt": TOKENS | {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 64},
    "nanochat": LLAMA,
    "nemotron": LLAMA,
    "olmo": LLAMA,
    "olmo2": LLAMA,
    "olmo3": WINDOW,
    "olmoe": LLAMA | EXPERTS,
    "openai-gpt": GPT,
    "opt": TOKENS
    | {
        "hidden_size": 32,
        "word_embed_proj_dim": 32,
        "ffn_dim": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
    },
    "persimmon": LLAMA,
    "phi": LLAMA,
    "phi3": LLAMA,
    "qwen2": LLAMA,
    "qwen2_moe": LLAMA | NARROW_EXPERTS | {"shared_expert_intermediate_size": 40},
    "qwen3": HEADS,
    "qwen3_5_text": HEADS | LINEAR_ATTENTION,
    "qwen3_moe": HEADS | NARROW_EXPERTS,
    "qwen3_next": HEADS
    | LINEAR_ATTENTION
    | NARROW_EXPERTS
    | {"shared_expert_intermediate_size": 40},
    "recurrent_gemma": HEADS
    | {"lru_width": 32, "attention_window_size": 8, "block_types": ["recurrent", "attention"]},
    "rwkv": {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "attention_hidden_size": 32,
        "context_length": 64,
    },
    "seed_oss": HEADS,
    "smollm3": LLAMA,
    "stablelm": LLAMA,
    "starcoder2": LLAMA,
    "xglm": TOKENS
    | {
        "d_model": 32,
        "ffn_dim": 48,
        "num_layers": 2,
        "attention_heads": 4,
        "max_position_embeddings": 64,
    },
}

NORM_AFTER_MODULE = frozenset(
    {"exaone4", "gemma2", "gemma3_text", "gemma4_text", "glm4", "olmo2", "olmo3", "openai-gpt"}
)
"""Here the stream receives a norm of what attention and MLP put out."""

OWN_STREAM = frozenset({"llama4_text", "rwkv"})
"""Here the MLP puts out flattened positions, or the first block rewrites the stream."""

RECORDS_OUTPUTS = frozenset({"mamba", "rwkv"})
"""Here ``hidden_states`` starts with the first block instead of the embedding."""


class Specimen(NamedTuple):
    """A model of the zoo, something to read, and what is special about its architecture."""

    name: str
    model: PreTrainedModel
    ids: torch.Tensor

    @property
    def plain_sum(self) -> bool:
        return self.name not in NORM_AFTER_MODULE | OWN_STREAM

    @property
    def records_outputs(self) -> bool:
        return self.name in RECORDS_OUTPUTS

    def logits(self) -> torch.Tensor:
        with torch.no_grad():
            return self.model(input_ids=self.ids, use_cache=False).logits


def build_specimen(name: str, **changes: Any) -> Specimen:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = AutoConfig.for_model(name, **(ZOO[name] | changes))
        model = AutoModelForCausalLM.from_config(config).eval()
        ids = torch.randint(3, VOCABULARY, (2, 9))
    return Specimen(name, model, ids)


@pytest.fixture(scope="session")
def build():
    """Builds one animal of the zoo, with changes to its configuration."""
    return build_specimen


_shared = cache(build_specimen)


@pytest.fixture(params=ZOO)
def specimen(request: pytest.FixtureRequest) -> Specimen:
    return _shared(request.param)


@pytest.fixture(params=[name for name in ZOO if name not in NORM_AFTER_MODULE | OWN_STREAM])
def summing_specimen(request: pytest.FixtureRequest) -> Specimen:
    """An architecture whose stream receives what attention and MLP put out, unchanged."""
    return _shared(request.param)


@pytest.fixture
def llama(build) -> Specimen:
    return build("llama")


@pytest.fixture
def gpt2(build) -> Specimen:
    return build("gpt2")
