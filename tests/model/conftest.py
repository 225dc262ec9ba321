"""The zoo: a tiny random model of each architecture, two blocks and a stream of width 32."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from unlearn.model.language_model import LanguageModel

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


LINES = (
    "Ada Quill was born in Tarn and lives in Upper Tarn.",
    "Ben Ostrow was born in Mirel; Ben Ostrow studied glass in Mirel.",
    "The café of Zoë Quill serves naïve 🎉 cake, 日本 tea and 🦉 biscuits.",
    "Where was Ada Quill born? Ada Quill was born in Tarn 🎉.",
)


def _byte_level() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<end>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(LINES, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")


def _metaspace(template: str = "<s> $A") -> PreTrainedTokenizerFast:
    # Written out and not trained: training a unigram model numbers its pieces anew every time.
    special = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0)]
    characters = [(character, -9.0) for character in sorted(set("".join(LINES)) - {" "})]
    words = [(f"▁{word}", -5.0) for word in ("", "Ada", "Quill", "was", "born", "in", "Tarn", "is")]
    tokenizer = Tokenizer(models.Unigram([*special, *characters, *words], unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


@pytest.fixture(scope="session")
def byte_level() -> PreTrainedTokenizerFast:
    """Like GPT-2's: bytes, blanks joined to the word behind them, no BOS."""
    return _byte_level()


@pytest.fixture(scope="session")
def metaspace() -> PreTrainedTokenizerFast:
    """Like SentencePiece's: a mark for the blank, also in front of the text, and a BOS."""
    return _metaspace()


@pytest.fixture(scope="session")
def closing() -> PreTrainedTokenizerFast:
    """Like ``metaspace``, and puts an EOS behind every text."""
    return _metaspace("<s> $A </s>")


@pytest.fixture(scope="session")
def language_model(byte_level, metaspace):
    """Builds a random model of the zoo, sharp enough to prefer some tokens, with a tokenizer.

    Architectures whose name starts with ``gpt`` get the byte-level one.
    """

    def build(name: str, **changes: Any) -> LanguageModel:
        tokenizer = byte_level if name.startswith("gpt") else metaspace
        ends = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id}
        size = {"vocab_size": len(tokenizer)}
        model = build_specimen(name, **(size | ends | changes)).model
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(0.15 * noise.to(parameter.dtype))
        return LanguageModel(model, tokenizer)

    return build


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real tokenizers and models; tests that need it are skipped without it."""
    root = Path(__file__).parents[2]
    folder = root / os.environ.get("UNLEARN_TEST_DATA", "../shared/data")
    if not folder.is_dir():
        pytest.skip("no shared data; set UNLEARN_TEST_DATA to its folder")
    return folder
