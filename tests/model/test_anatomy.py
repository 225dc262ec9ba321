"""Anatomy, checked by running every model of the zoo and not by comparing names."""

from collections import OrderedDict
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModel

from unlearn.errors import AnatomyError, ConfigError, InputError, UnsupportedError
from unlearn.model.anatomy import find_anatomy
from unlearn.model.hooks import capture, patch


def test_each_block_puts_out_the_next_hidden_state(specimen):
    anatomy = find_anatomy(specimen.model)
    with torch.no_grad(), capture(specimen.model, anatomy.layers) as blocks:
        output = specimen.model(input_ids=specimen.ids, use_cache=False, output_hidden_states=True)
    stream = [blocks[layer] for layer in anatomy.layers]
    if not specimen.records_outputs:
        stream = [output.hidden_states[0], *stream]
    last = output.hidden_states[-1]
    if anatomy.final_norm is not None:
        with torch.no_grad():
            final = specimen.model.get_submodule(anatomy.final_norm)(stream[-1])
        assert torch.equal(final, last) or torch.equal(stream[-1], last)
    for ours, theirs in zip(stream[:-1], output.hidden_states, strict=False):
        assert torch.equal(ours, theirs)


def test_every_block_mixes_tokens_in_the_part_called_attention(specimen):
    """Changing the first token reaches later positions through attention and nothing else."""
    anatomy = find_anatomy(specimen.model)
    others = specimen.ids.clone()
    others[:, 0] = 3 + (others[:, 0] - 2) % 36
    changed = specimen._replace(ids=others)
    mixers = {name: torch.zeros_like for name in anatomy.attention if name is not None}
    with patch(specimen.model, mixers):
        without = specimen.logits()[:, -1], changed.logits()[:, -1]
    assert len(mixers) == anatomy.n_layers
    assert torch.equal(*without)
    assert not torch.equal(specimen.logits()[:, -1], changed.logits()[:, -1])


def test_zeroing_a_down_projection_acts_through_its_own_block_and_nowhere_else(specimen):
    anatomy = find_anatomy(specimen.model)
    with capture(specimen.model, anatomy.layers) as clean:
        logits = specimen.logits()
    for index, name in enumerate(anatomy.down_projection):
        if name is None:
            assert index in anatomy.missing
            continue
        with (
            patch(specimen.model, {name: torch.zeros_like}),
            capture(specimen.model, anatomy.layers) as zeroed,
        ):
            changed = specimen.logits()
        assert not torch.equal(changed, logits)
        same = [torch.equal(zeroed[layer], clean[layer]) for layer in anatomy.layers]
        assert same == [layer < index for layer in range(anatomy.n_layers)]
        block = anatomy.layers[index]
        with patch(specimen.model, {name: torch.zeros_like, block: lambda _: clean[block]}):  # noqa: B023
            assert torch.equal(specimen.logits(), logits)


def test_zeroing_the_mlp_is_zeroing_its_down_projection(specimen):
    anatomy = find_anatomy(specimen.model)
    for mlp, down in zip(anatomy.mlp, anatomy.down_projection, strict=True):
        if mlp is None or down is None:
            continue
        with patch(specimen.model, {down: torch.zeros_like}):
            without_down = specimen.logits()
        with patch(specimen.model, {mlp: torch.zeros_like}):
            without_mlp = specimen.logits()
        assert torch.equal(without_mlp, without_down) == (mlp not in anatomy.adds_residual)


def test_a_block_puts_out_its_input_plus_attention_plus_mlp(summing_specimen):
    model = summing_specimen.model
    anatomy = find_anatomy(model)
    parts = [name for name in (*anatomy.layers, *anatomy.attention, *anatomy.mlp) if name]
    parts += [name for name in anatomy.down_projection if name]
    with capture(model, parts) as outputs, capture(model, anatomy.layers, inputs=True) as inputs:
        summing_specimen.logits()
    scale = getattr(model.config, "residual_multiplier", 1.0)
    for index, layer in enumerate(anatomy.layers):
        stream = inputs[layer]
        attention = anatomy.attention[index]
        if attention is not None:
            kept = 0 if attention in anatomy.adds_residual else stream
            stream = kept + scale * outputs[attention]
        contribution = anatomy.mlp_contribution(index)
        if contribution is not None:
            # OPT runs its projections on flattened positions.
            stream = stream + scale * outputs[contribution].reshape(stream.shape)
        torch.testing.assert_close(stream, outputs[layer], atol=1e-5, rtol=1e-5)


def test_the_final_norm_feeds_the_unembedding(specimen):
    anatomy = find_anatomy(specimen.model)
    last = anatomy.final_norm or anatomy.layers[-1]
    with (
        capture(specimen.model, [last]) as states,
        capture(specimen.model, [anatomy.unembedding], inputs=True) as read,
        capture(specimen.model, [anatomy.embedding, anatomy.unembedding]) as ends,
    ):
        specimen.logits()
    assert torch.equal(states[last], read[anatomy.unembedding])
    assert ends[anatomy.embedding].shape == (2, 9, 32)
    assert ends[anatomy.unembedding].shape == (2, 9, 40)


def test_layer_of_agrees_with_the_parameters_each_block_owns(specimen):
    anatomy = find_anatomy(specimen.model)
    owner = {
        id(parameter): index
        for index, layer in enumerate(anatomy.layers)
        for parameter in specimen.model.get_submodule(layer).parameters()
    }
    for name, parameter in specimen.model.named_parameters():
        assert anatomy.layer_of(name) == owner.get(id(parameter))
    assert [anatomy.layer_of(layer) for layer in anatomy.layers] == [0, 1]
    assert anatomy.layer_of(anatomy.embedding) is None
    assert anatomy.layer_of("") is None


def test_layer_of_does_not_take_block_10_for_block_1(build):
    anatomy = find_anatomy(build("llama", num_hidden_layers=12).model)
    assert anatomy.layer_of("model.layers.10.mlp.down_proj.weight") == 10
    assert anatomy.layer_of("model.layers.1") == 1
    assert anatomy.layer_of("model.layers") is None


def test_the_names_are_the_ones_a_reader_of_the_model_would_give(gpt2):
    anatomy = find_anatomy(gpt2.model)
    assert anatomy.decoder == "transformer"
    assert anatomy.n_layers == 2
    assert anatomy.layers[1] == "transformer.h.1"
    assert anatomy.attention[1] == "transformer.h.1.attn"
    assert anatomy.mlp[1] == "transformer.h.1.mlp"
    assert anatomy.down_projection[1] == "transformer.h.1.mlp.c_proj"
    assert anatomy.final_norm == "transformer.ln_f"
    assert (anatomy.embedding, anatomy.unembedding) == ("transformer.wte", "lm_head")


def test_a_block_whose_projections_hang_on_it_has_no_mlp_module(build):
    anatomy = find_anatomy(build("opt").model)
    assert anatomy.mlp == (None, None)
    assert anatomy.down_projection[0] == "model.decoder.layers.0.fc2"
    assert anatomy.mlp_contribution(0) == "model.decoder.layers.0.fc2"


def test_modules_that_add_the_stream_themselves_are_marked(build):
    anatomy = find_anatomy(build("bloom").model)
    assert anatomy.adds_residual == {*anatomy.attention, *anatomy.mlp}
    assert anatomy.mlp_contribution(1) == "transformer.h.1.mlp.dense_4h_to_h"
    assert find_anatomy(build("llama").model).adds_residual == frozenset()


def test_stacked_vectors_are_not_taken_for_experts(build):
    anatomy = find_anatomy(build("rwkv").model)
    assert anatomy.down_projection[0] == "rwkv.blocks.0.feed_forward.value"


def test_a_child_that_only_leads_back_to_the_stream_is_no_mlp(llama):
    for block in llama.model.model.layers:
        block.wide = nn.Linear(32, 48)
        block.back = nn.Sequential(OrderedDict(dense=nn.Linear(48, 32)))
        del block.mlp
    anatomy = find_anatomy(llama.model)
    assert anatomy.down_projection[0] == "model.layers.0.back.dense"
    assert anatomy.mlp == (None, None)


def test_lists_as_long_as_the_blocks_do_not_confuse(llama):
    expected = find_anatomy(llama.model)
    llama.model.model.scales = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    llama.model.tower = deepcopy(llama.model.model.layers)
    assert find_anatomy(llama.model) == expected


def test_the_widest_way_back_wins_over_side_paths(build):
    anatomy = find_anatomy(build("gemma4_text").model)
    assert anatomy.down_projection[0] == "model.layers.0.mlp.down_proj"


@pytest.mark.parametrize("name", ["mixtral", "qwen2_moe", "gpt_oss", "granitemoe"])
def test_fused_experts_leave_no_down_projection_and_say_so(build, name):
    anatomy = find_anatomy(build(name).model)
    assert anatomy.down_projection == (None, None)
    assert None not in anatomy.mlp
    with pytest.raises(UnsupportedError, match=r"block 1 .*experts.*; no layer has one"):
        anatomy.require_down_projection(1)


def test_a_mix_of_dense_and_expert_blocks_names_the_dense_ones(build):
    anatomy = find_anatomy(build("deepseek_v3").model)
    assert anatomy.require_down_projection(0) == "model.layers.0.mlp.down_proj"
    with pytest.raises(UnsupportedError, match=r"block 1 .*mlp\.experts.*; layers with one: 0"):
        anatomy.require_down_projection(1)
    with pytest.raises(InputError, match="there is no layer 2: the model has 0 to 1"):
        anatomy.require_down_projection(2)


def test_experts_kept_in_a_list_count_as_experts(llama):
    for block in llama.model.model.layers:
        block.mlp.experts = nn.ModuleList([nn.Linear(48, 32), nn.Linear(48, 32)])
        block.mlp.shared = nn.Linear(96, 32)
    anatomy = find_anatomy(llama.model)
    assert anatomy.down_projection == (None, None)
    assert anatomy.mlp == ("model.layers.0.mlp", "model.layers.1.mlp")
    assert "experts" in anatomy.missing[0]


def test_a_block_without_an_mlp_says_so(build):
    anatomy = find_anatomy(build("mamba").model)
    assert anatomy.attention == ("backbone.layers.0.mixer", "backbone.layers.1.mixer")
    assert anatomy.mlp_contribution(0) is None
    with pytest.raises(UnsupportedError, match=r"block 0 has no MLP, only norm .*mixer"):
        anatomy.require_down_projection(0)


# peft 0.21 asks for the old name of a transformers property.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_adapters_inside_the_model_do_not_change_the_anatomy(llama):
    before = find_anatomy(llama.model)
    adapted = get_peft_model(
        llama.model, LoraConfig(r=4, target_modules=["down_proj", "up_proj", "o_proj"])
    )
    assert find_anatomy(adapted.get_base_model()) == before


@pytest.mark.parametrize("name", ["gpt2", "opt", "mixtral", "jamba"])
def test_naming_every_part_by_hand_gives_the_same_anatomy(build, name):
    model = build(name).model
    found = find_anatomy(model)

    def relative(names):
        pairs = zip(found.layers, names, strict=True)
        return [part and part.removeprefix(f"{layer}.") for layer, part in pairs]

    given = find_anatomy(
        model,
        layers=found.layers[0].removesuffix(".0"),
        attention=relative(found.attention),
        mlp=relative(found.mlp),
        down_projection=relative(found.down_projection),
        final_norm=found.final_norm,
        embedding=found.embedding,
        unembedding=found.unembedding,
    )
    assert replace(given, missing=found.missing) == found


def test_one_name_overrides_a_part_in_all_blocks(gpt2):
    anatomy = find_anatomy(gpt2.model, down_projection="mlp.c_fc", mlp=None, final_norm=None)
    assert anatomy.down_projection == ("transformer.h.0.mlp.c_fc", "transformer.h.1.mlp.c_fc")
    assert anatomy.mlp == (None, None)
    assert anatomy.final_norm is None
    without = find_anatomy(gpt2.model, down_projection=None)
    assert without.missing[1] == "block 1 has no down-projection, by override"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"layers": "transformer.hh"}, r"layers='transformer\.hh': .* Near: .*'transformer\.h'"),
        ({"layers": "transformer.wte"}, "'transformer.wte' is a Embedding, not a list of blocks"),
        ({"attention": "atn"}, r"attention='atn': .* Near: 'attn'"),
        ({"mlp": ["mlp"]}, "mlp: 1 names were given for 2 blocks"),
        ({"final_norm": "transformer.lnf"}, r"final_norm=.* Near: 'transformer\.ln_f'"),
        ({"embedding": "wte"}, "embedding='wte'"),
        ({"unembedding": "head"}, "unembedding='head'.* Near: 'lm_head'"),
    ],
)
def test_an_override_that_names_nothing_is_refused(gpt2, overrides, message):
    with pytest.raises(AnatomyError, match=message):
        find_anatomy(gpt2.model, **overrides)


def test_an_override_of_an_unknown_part_is_refused(gpt2):
    with pytest.raises(ConfigError, match=r"no part is called 'layer'\. Near: 'layers'"):
        find_anatomy(gpt2.model, layer="transformer.h")


def test_blocks_that_do_not_match_the_configuration_are_not_guessed(llama):
    llama.model.config.num_hidden_layers = 3
    with pytest.raises(AnatomyError, match=r"layers: .* 3 blocks .*layers='model\.layers'"):
        find_anatomy(llama.model)
    assert find_anatomy(llama.model, layers="model.layers").n_layers == 2


def test_two_equal_lists_of_blocks_are_not_guessed(llama):
    llama.model.model.more = nn.ModuleList(llama.model.model.layers)
    with pytest.raises(AnatomyError, match=r"several do \(model\.layers, model\.more\)"):
        find_anatomy(llama.model)


def test_equally_wide_projections_are_not_guessed(llama):
    llama.model.model.layers[1].side = nn.Linear(48, 32)
    message = r"block 1 .*mlp\.down_proj and side are equally wide.*down_projection="
    with pytest.raises(AnatomyError, match=message):
        find_anatomy(llama.model)
    anatomy = find_anatomy(llama.model, down_projection="mlp.down_proj")
    assert anatomy.mlp[1] == "model.layers.1.mlp"


def test_an_inner_width_equal_to_the_stream_is_not_guessed(build):
    model = build("llama", intermediate_size=32).model
    with pytest.raises(AnatomyError, match=r"a width other than 32 to 32, none does"):
        find_anatomy(model)
    assert find_anatomy(model, down_projection="mlp.down_proj").mlp[0] == "model.layers.0.mlp"


def test_several_mixers_or_none_are_not_guessed(llama):
    for block in llama.model.model.layers:
        block.cross_attn = nn.Linear(32, 32)
    assert find_anatomy(llama.model).attention[0] == "model.layers.0.self_attn"
    for block in llama.model.model.layers:
        block.other_attn = block.self_attn
        del block.self_attn
    with pytest.raises(AnatomyError, match=r"several children mix .* cross_attn, other_attn"):
        find_anatomy(llama.model)
    for block in llama.model.model.layers:
        del block.other_attn, block.cross_attn
    with pytest.raises(AnatomyError, match=r"attention: nothing in block 0 mixes tokens"):
        find_anatomy(llama.model)


def test_several_norms_after_the_blocks_are_not_guessed(llama):
    llama.model.model.norm_2 = nn.LayerNorm(32)
    with pytest.raises(AnatomyError, match=r"norms .*: norm, norm_2.*'model\.norm_2'"):
        find_anatomy(llama.model)
    assert find_anatomy(llama.model, final_norm="model.norm").final_norm == "model.norm"


def test_a_model_without_a_head_needs_its_unembedding_named(llama):
    body = AutoModel.from_config(llama.model.config)
    with pytest.raises(AnatomyError, match=r"unembedding: LlamaModel .*unembedding='lm_head'"):
        find_anatomy(body)
    anatomy = find_anatomy(body, unembedding="embed_tokens")
    assert anatomy.decoder == ""
    assert anatomy.layers == ("layers.0", "layers.1")
    assert anatomy.final_norm == "norm"
