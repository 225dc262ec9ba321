"""Hooks read and replace, and leave nothing behind."""

from typing import NamedTuple

import pytest
import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutput

from unlearn.errors import InputError
from unlearn.model.anatomy import find_anatomy
from unlearn.model.hooks import capture, find_module, first, patch, replace_first

BLOCK = "model.layers.0"
LATER = "model.layers.1"


def hooks_on(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.fixture
def left_behind(llama):
    """Fails the test that leaves a hook or a changed weight on the llama."""
    before = {name: tensor.clone() for name, tensor in llama.model.state_dict().items()}
    assert hooks_on(llama.model) == 0
    yield
    assert hooks_on(llama.model) == 0
    after = llama.model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


pytestmark = pytest.mark.usefixtures("left_behind")


def test_capture_keeps_what_each_module_puts_out(llama):
    with torch.no_grad():
        expected = llama.model.get_input_embeddings()(llama.ids)
    with capture(llama.model, ["model.embed_tokens", BLOCK]) as states:
        assert hooks_on(llama.model) == 2
        assert len(states) == 0
        llama.logits()
    assert list(states) == ["model.embed_tokens", BLOCK]
    assert torch.equal(states["model.embed_tokens"], expected)


def test_captured_tensors_are_detached_copies(llama):
    class Doubler(nn.Module):
        def forward(self, x):
            return x.mul_(2)

    model = nn.Sequential(nn.Linear(2, 2), Doubler())
    with capture(model, ["0"]) as states:
        output = model(torch.ones(1, 3, 2))
    assert output.requires_grad
    assert not states["0"].requires_grad
    assert torch.equal(states["0"] * 2, output.detach())


def test_capture_of_inputs_keeps_what_goes_in(llama):
    with (
        capture(llama.model, [BLOCK]) as outputs,
        capture(llama.model, [LATER], inputs=True) as ins,
    ):
        llama.logits()
    assert torch.equal(ins[LATER], outputs[BLOCK])


def test_capture_of_inputs_finds_tensors_passed_by_name(llama):
    attention = f"{BLOCK}.self_attn"
    norm = f"{BLOCK}.input_layernorm"
    with (
        capture(llama.model, [norm]) as normed,
        capture(llama.model, [attention], inputs=True) as ins,
    ):
        llama.logits()
    assert torch.equal(ins[attention], normed[norm])


def test_capture_of_inputs_refuses_a_module_called_without_a_tensor(llama):
    class Constant(nn.Module):
        def forward(self):
            return torch.ones(1)

    model = nn.Sequential(Constant())
    with capture(model, ["0"], inputs=True), pytest.raises(InputError, match=r"'0' .*without any"):
        model[0]()


@pytest.mark.parametrize(
    ("positions", "expected"),
    [
        (3, [[3], [3]]),
        (-1, [[8], [8]]),
        (slice(2, 5), [[2, 3, 4], [2, 3, 4]]),
        ([0, 7], [[0, 7], [0, 7]]),
        ((0, 7), [[0, 7], [0, 7]]),
        (torch.tensor([6, 1]), [[6, 1], [6, 1]]),
        (torch.tensor([[1, 2, 3], [6, 7, 8]]), [[1, 2, 3], [6, 7, 8]]),
        (torch.tensor([[4], [-1]]), [[4], [8]]),
    ],
)
def test_positions_select_tokens_of_each_row(llama, positions, expected):
    with capture(llama.model, [BLOCK]) as whole:
        llama.logits()
    with capture(llama.model, [BLOCK], positions=positions) as some:
        llama.logits()
    rows = [whole[BLOCK][row, chosen] for row, chosen in enumerate(expected)]
    assert torch.equal(some[BLOCK], torch.stack(rows))


def test_positions_of_an_output_without_a_position_dimension_are_refused(build):
    specimen = build("opt")
    flat = find_anatomy(specimen.model).down_projection[0]
    with (
        capture(specimen.model, [flat], positions=0),
        pytest.raises(InputError, match=r"fc2.*shape \(18, 32\).*no position dimension"),
    ):
        specimen.logits()
    assert hooks_on(specimen.model) == 0


def test_a_later_call_replaces_and_clear_forgets(llama):
    with capture(llama.model, [BLOCK]) as states:
        llama.logits()
        both = states[BLOCK]
        llama._replace(ids=llama.ids[:1]).logits()
        assert states[BLOCK].shape == (1, 9, 32)
        states.clear()
        assert BLOCK not in states
        llama.logits()
    assert torch.equal(states[BLOCK], both)
    llama._replace(ids=llama.ids[:1]).logits()
    assert torch.equal(states[BLOCK], both)


def test_what_was_not_computed_is_named_when_asked_for(llama):
    with capture(llama.model, [BLOCK]) as states:
        llama.logits()
    with pytest.raises(KeyError, match=r"model\.layers\.1.*not computed.*model\.layers\.0"):
        states[LATER]


def test_patch_changes_what_follows_and_nothing_before(llama):
    clean = llama.logits()
    with capture(llama.model, [BLOCK, LATER]) as before:
        llama.logits()
    with (
        patch(llama.model, {f"{LATER}.mlp": torch.zeros_like}),
        capture(llama.model, [BLOCK, LATER]) as after,
    ):
        patched = llama.logits()
    assert torch.equal(before[BLOCK], after[BLOCK])
    assert not torch.equal(before[LATER], after[LATER])
    assert not torch.equal(patched, clean)
    assert torch.equal(llama.logits(), clean)


@pytest.mark.parametrize("name", ["llama", "gptj", "bloom", "falcon", "gpt_oss"])
def test_the_same_patch_works_on_tensor_and_on_tuple_outputs(build, name):
    specimen = build(name)
    anatomy = find_anatomy(specimen.model)
    clean = specimen.logits()
    for part in (anatomy.layers[1], anatomy.attention[1], anatomy.mlp[1]):
        with patch(specimen.model, {part: lambda h: h + 1}), capture(specimen.model, [part]) as up:
            changed = specimen.logits()
        with (
            patch(specimen.model, {part: lambda h: h.clone()}),
            capture(specimen.model, [part]) as same,
        ):
            assert torch.equal(specimen.logits(), clean)
        assert torch.equal(up[part], same[part] + 1)
        assert not torch.equal(changed, clean)
    assert hooks_on(specimen.model) == 0


def test_zeroing_an_output_equals_zeroing_the_weights(llama):
    with patch(llama.model, {f"{BLOCK}.mlp.down_proj": torch.zeros_like}):
        patched = llama.logits()
    weight = llama.model.get_submodule(f"{BLOCK}.mlp.down_proj").weight
    original = weight.detach().clone()
    with torch.no_grad():
        weight.zero_()
        expected = llama.logits()
        weight.copy_(original)
    assert torch.equal(patched, expected)


def test_a_patch_may_write_into_its_argument_without_touching_the_output(llama):
    model = nn.Sequential(nn.Identity(), nn.Identity())
    data = torch.ones(1, 2, 3)
    with patch(model, {"1": lambda h: h.zero_()}):
        assert torch.equal(model(data), torch.zeros(1, 2, 3))
    assert torch.equal(data, torch.ones(1, 2, 3))


def test_gradients_pass_through_a_patch(llama):
    data = torch.ones(1, 2, 3, requires_grad=True)
    with patch(model := nn.Sequential(nn.Identity()), {"0": lambda h: h * 3}):
        model(data).sum().backward()
    assert torch.equal(data.grad, torch.full((1, 2, 3), 3.0))


def test_blocks_nest_in_the_order_they_are_entered(llama):
    with (
        capture(llama.model, [BLOCK]) as outside,
        patch(llama.model, {BLOCK: lambda h: h + 1}),
        capture(llama.model, [BLOCK]) as between,
        patch(llama.model, {BLOCK: lambda h: h * 2}),
        capture(llama.model, [BLOCK]) as inside,
    ):
        llama.logits()
        assert hooks_on(llama.model) == 5
    assert torch.equal(between[BLOCK], outside[BLOCK] + 1)
    assert torch.equal(inside[BLOCK], between[BLOCK] * 2)


@pytest.mark.parametrize("inputs", [False, True])
def test_an_exception_in_the_body_leaves_no_hook(llama, inputs):
    with (
        pytest.raises(ZeroDivisionError),
        capture(llama.model, [BLOCK], inputs=inputs),
        patch(llama.model, {LATER: torch.zeros_like}),
    ):
        assert hooks_on(llama.model) == 2
        raise ZeroDivisionError
    assert hooks_on(llama.model) == 0


def test_an_exception_in_a_patch_leaves_no_hook(llama):
    def fail(_: torch.Tensor) -> torch.Tensor:
        raise ZeroDivisionError

    clean = llama.logits()
    with pytest.raises(ZeroDivisionError), patch(llama.model, {BLOCK: fail}):
        llama.logits()
    assert torch.equal(llama.logits(), clean)


def test_an_unknown_name_is_refused_before_any_hook_is_set(llama):
    message = r"LlamaForCausalLM has no module 'model\.layer\.0'\. Near: .*'model\.layers\.0'"
    with pytest.raises(InputError, match=message), capture(llama.model, [BLOCK, "model.layer.0"]):
        pytest.fail("the block must not run")
    with (
        pytest.raises(InputError, match=message),
        patch(llama.model, {BLOCK: torch.zeros_like, "model.layer.0": torch.zeros_like}),
    ):
        pytest.fail("the block must not run")


def test_a_patch_of_another_shape_or_kind_is_refused(llama):
    with (
        patch(llama.model, {BLOCK: lambda h: h[:, :1]}),
        pytest.raises(InputError, match=r"'model\.layers\.0' .*\(2, 1, 32\) .*\(2, 9, 32\)"),
    ):
        llama.logits()
    with (
        patch(llama.model, {BLOCK: lambda h: None}),
        pytest.raises(InputError, match="returned NoneType, not a tensor"),
    ):
        llama.logits()


class Pair(NamedTuple):
    state: torch.Tensor
    rest: str


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ((torch.ones(1), "rest"), (torch.zeros(1), "rest")),
        ([torch.ones(1), "rest"], [torch.zeros(1), "rest"]),
        (Pair(torch.ones(1), "rest"), Pair(torch.zeros(1), "rest")),
        (torch.ones(1), torch.zeros(1)),
    ],
)
def test_first_is_replaced_and_the_rest_kept(output, expected):
    changed = replace_first(output, torch.zeros(1))
    assert type(changed) is type(expected)
    assert torch.equal(first(changed), torch.zeros(1))
    assert torch.equal(first(output), torch.ones(1))
    if not isinstance(expected, torch.Tensor):
        assert changed[1] == "rest"


def test_model_outputs_are_read_and_replaced_like_tuples():
    output = BaseModelOutput(last_hidden_state=torch.ones(1), attentions=(torch.ones(2),))
    changed = replace_first(output, torch.zeros(1))
    assert torch.equal(changed.last_hidden_state, torch.zeros(1))
    assert torch.equal(first(output), torch.ones(1))
    assert changed.attentions is output.attentions


@pytest.mark.parametrize("output", [None, (), ("text", torch.ones(1)), {"a": torch.ones(1)}])
def test_an_output_without_a_tensor_in_front_is_refused(output):
    with pytest.raises(InputError, match="where a tensor was expected"):
        first(output)


def test_the_empty_name_is_the_model_itself(llama):
    assert find_module(llama.model, "") is llama.model
