"""Causal tracing: the engine gives what plain hooks give, in every architecture of the zoo."""

import pytest
import torch
from tracing_oracle import Oracle

from unlearn.errors import NumericalError, UnsupportedError
from unlearn.model.anatomy import find_anatomy
from unlearn.model.corruption import Pair
from unlearn.model.tracing import Cell, Readout, Tracer

SUBJECT = (3, 4)
TOKEN = 7


def last_logit(logits):
    return logits[:, -1, TOKEN]


def sharpen(specimen):
    """The same animal with weights large enough for every token to matter to every other."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in specimen.model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(0.1 * noise.to(parameter.dtype))
    return specimen


@pytest.fixture
def animal(specimen, build):
    return sharpen(build(specimen.name))


@pytest.fixture
def llama(build):
    return sharpen(build("llama"))


def pairs(specimen, n_rows=3):
    """One pair with other tokens in place of the subject, one with noise on it."""
    clean = specimen.ids[0]
    replaced = clean.repeat(2, 1)
    for row in range(2):
        replaced[row, list(SUBJECT)] = specimen.ids[1, [row, row + 3]]
    width = specimen.model.get_input_embeddings().weight.shape[1]
    noise = torch.zeros(n_rows, len(clean), width)
    generator = torch.Generator().manual_seed(3)
    noise[:, list(SUBJECT)] = torch.randn(n_rows, 2, width, generator=generator)
    return Pair(clean, replaced), Pair(clean, clean.repeat(n_rows, 1), noise)


def all_cells(tracer, tokens):
    """Cells of every kind, with the words in which the oracle is asked for each."""
    anatomy, n_layers = tracer.decoder.anatomy, tracer.decoder.n_layers
    for token in tokens:
        for layer in range(n_layers):
            yield Cell.hidden(token, layer), {"token": token, "state": layer}
            for part in ("mlp", "attention"):
                if not tracer.layers_with(part):
                    continue
                for stop in range(layer + 1, n_layers + 1):
                    asked = {"token": token, "part": part, "layers": range(layer, stop)}
                    yield Cell.window(token, part, range(layer, stop)), asked
                asked = {"token": token, "state": layer, "severed": part}
                yield Cell.severed(token, layer, part, anatomy.n_layers), asked


def run(specimen, pair, cells, **options):
    tracer = Tracer(specimen.model, find_anatomy(specimen.model), **options)
    return tracer.trace(pair, cells, Readout((pair.n_tokens - 1,), last_logit))


def test_the_engine_equals_plain_hooks_in_every_architecture(animal):
    anatomy = find_anatomy(animal.model)
    n_tokens = animal.ids.shape[1]
    for pair in pairs(animal):
        tracer = Tracer(animal.model, anatomy, max_rows=16)
        cells, asked = zip(*all_cells(tracer, (2, 4, 6, 8)), strict=True)
        readout = Readout((n_tokens - 1,), last_logit)
        oracle = Oracle(animal.model, anatomy, pair.clean, pair.corrupted, pair.noise)
        found = tracer.trace(pair, cells, readout)
        assert found.clean == pytest.approx(
            float(last_logit(oracle.clean_logits)), rel=1e-5, abs=1e-5
        )
        expected = float(last_logit(oracle.corrupted_logits).mean())
        assert found.corrupted == pytest.approx(expected, rel=1e-5, abs=1e-5)
        expected = [float(last_logit(oracle.restored(**words)).mean()) for words in asked]
        assert max(expected) - min(expected) > 1e-3
        assert found.cells == pytest.approx(expected, rel=1e-5, abs=1e-5)


WITHOUT_PREFIX = frozenset(
    "bamba jamba lfm2 mamba openai-gpt qwen3_5_text qwen3_next recurrent_gemma rwkv".split()
)
"""Recurrent states cannot be picked by row, and openai-gpt has no cache."""


def test_earlier_keys_and_values_are_reused_where_attention_is_all_that_mixes(animal):
    pair, _ = pairs(animal)
    tracer = Tracer(animal.model, find_anatomy(animal.model))
    tracer.trace(pair, [Cell.hidden(4, 0)], Readout((8,), last_logit))
    assert tracer.reuses_prefix == (animal.name not in WITHOUT_PREFIX)


@pytest.mark.parametrize("reuse", [True, False])
@pytest.mark.parametrize("max_rows", [1, 2, 7])
def test_neither_memory_nor_reuse_changes_the_result(build, reuse, max_rows):
    specimen = sharpen(build("qwen3", num_hidden_layers=4))
    for pair in pairs(specimen):
        tracer = Tracer(specimen.model, find_anatomy(specimen.model))
        cells = [cell for cell, _ in all_cells(tracer, (3, 5, 8))]
        expected = run(specimen, pair, cells)
        found = run(specimen, pair, cells, max_rows=max_rows, reuse_prefix=reuse)
        assert found.cells == pytest.approx(expected.cells, abs=1e-5)
        assert found.corrupted == pytest.approx(expected.corrupted, abs=1e-5)


def test_no_block_sees_more_rows_than_allowed(llama):
    pair, _ = pairs(llama)
    seen = []
    for block in llama.model.model.layers:
        block.self_attn.register_forward_pre_hook(
            lambda module, args, kwargs: seen.append(len(kwargs["hidden_states"])),
            with_kwargs=True,
        )
    tracer = Tracer(llama.model, find_anatomy(llama.model))
    cells = [cell for cell, _ in all_cells(tracer, (3, 8))]
    run(llama, pair, cells)
    assert max(seen) > 6
    seen.clear()
    run(llama, pair, cells, max_rows=6)
    assert max(seen) == 6


def test_blocks_that_read_what_earlier_ones_computed_are_refused(build):
    specimen = build(
        "gemma4_text",
        num_hidden_layers=4,
        layer_types=["full_attention"] * 4,
        num_kv_shared_layers=2,
    )
    with pytest.raises(UnsupportedError, match="cannot be traced"):
        run(specimen, pairs(specimen)[0], [Cell.hidden(4, 0)])


def test_restoring_the_last_blocks_output_at_the_last_token_is_the_total_effect(llama):
    for pair in pairs(llama):
        found = run(llama, pair, [Cell.hidden(8, 1), Cell.hidden(7, 1)])
        assert found.cells[0] == pytest.approx(found.clean, abs=1e-5)
        assert found.cells[1] == pytest.approx(found.corrupted, abs=1e-5)
        assert found.clean != pytest.approx(found.corrupted, abs=1e-3)


def test_restoring_the_only_corrupted_token_before_the_first_block_is_the_total_effect(llama):
    clean = llama.ids[0]
    corrupted = clean.clone()[None]
    corrupted[0, 3] = 3 + (clean[3] - 2) % 36
    found = run(llama, Pair(clean, corrupted), [Cell(3, 0, True)])
    assert found.cells[0] == pytest.approx(found.clean, abs=1e-5)


def test_tokens_before_the_subject_have_no_effect(llama):
    for pair in pairs(llama):
        assert pair.first == 3
        cells = [cell for cell, _ in all_cells(Tracer(*parts_of(llama)), (0, 1, 2))]
        found = run(llama, pair, cells)
        assert found.cells == pytest.approx([found.corrupted] * len(cells), abs=1e-5)


def parts_of(specimen):
    return specimen.model, find_anatomy(specimen.model)


@pytest.mark.parametrize("part", ["mlp", "attention"])
def test_a_severed_effect_does_not_use_the_severed_path(build, part):
    """Where a part adds nothing, severing it changes nothing; where it is all there is, all."""
    specimen = sharpen(build("llama", num_hidden_layers=4))
    other = {"mlp": "attention", "attention": "mlp"}[part]
    names = {"mlp": "mlp.down_proj", "attention": "self_attn.o_proj"}
    with torch.no_grad():
        for block in specimen.model.model.layers:
            block.get_submodule(names[part]).weight.zero_()
    pair, _ = pairs(specimen)
    hidden = [Cell.hidden(4, layer) for layer in range(4)]
    severed = [Cell.severed(4, layer, part, 4) for layer in range(4)]
    through = [Cell.severed(4, layer, other, 4) for layer in range(4)]
    found = run(specimen, pair, hidden + severed + through)
    assert found.cells[4:8] == pytest.approx(found.cells[:4], abs=1e-5)
    if part == "mlp":  # attention carries everything: without it at the token the rest is as before
        assert found.cells[8:] != pytest.approx(found.cells[:4], abs=1e-5)


def test_a_window_over_no_part_of_it_changes_nothing(build):
    specimen = build("mamba")
    tracer = Tracer(*parts_of(specimen))
    assert tracer.layers_with("mlp") == () and tracer.layers_with("attention") == (0, 1)


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def untouched(model, before):
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    for module in model.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks
        assert "forward" not in module.__dict__


def test_the_model_is_bit_for_bit_as_it_was(animal):
    before = state(animal.model)
    for pair in pairs(animal):
        cells = [cell for cell, _ in all_cells(Tracer(*parts_of(animal)), (4,))]
        run(animal, pair, cells)
    untouched(animal.model, before)


@pytest.mark.parametrize("where", ["model.layers.0.mlp", "model.layers.1", "lm_head"])
@pytest.mark.parametrize("after", [0, 1, 2, 5, 9])
def test_no_hook_survives_an_error(build, where, after):
    specimen = build("llama")
    before = state(specimen.model)
    module, calls = specimen.model.get_submodule(where), []

    def fail(*_):
        calls.append(1)
        if len(calls) > after:
            raise KeyboardInterrupt

    handle = module.register_forward_pre_hook(fail)
    cells = [cell for cell, _ in all_cells(Tracer(*parts_of(specimen)), (4, 6))]
    with pytest.raises(KeyboardInterrupt):
        run(specimen, pairs(specimen)[1], cells)
    handle.remove()
    untouched(specimen.model, before)


def test_a_model_in_training_is_measured_without_dropout_and_left_in_training(build):
    specimen = build("gpt2")
    cells = [Cell.hidden(4, 0)]
    expected = run(specimen, pairs(specimen)[0], cells)
    specimen.model.train()
    assert run(specimen, pairs(specimen)[0], cells) == expected
    assert all(module.training for module in specimen.model.modules())


def test_scores_that_are_not_finite_are_an_error(build):
    specimen = build("llama")
    with torch.no_grad():
        specimen.model.lm_head.weight[:] = float("nan")
    with pytest.raises(NumericalError, match="not finite"):
        run(specimen, pairs(specimen)[0], [Cell.hidden(4, 0)])
