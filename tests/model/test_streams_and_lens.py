"""The stream at chosen tokens and the lens, against plain hooks and plain forward passes."""

import numpy as np
import pytest
import torch

from unlearn.errors import NumericalError
from unlearn.model import lens as lens_module
from unlearn.model.language_model import LanguageModel
from unlearn.model.lens import Lens
from unlearn.model.streams import read_states, streams

TEXTS = [[5, 9, 3, 7], [4, 4, 8], [6, 11, 13, 2, 9, 12], [7, 3]]
POSITIONS = [[0, 3], [2], [1, 2, 5], [1]]


def by_hand(lm, ids):
    """(depth, position, width): what goes into each block, and what comes out of the last."""
    seen, blocks = [], [lm.model.get_submodule(name) for name in lm.anatomy.layers]
    hooks = [
        block.register_forward_pre_hook(
            lambda _, args, kwargs: seen.append(args[0] if args else kwargs["hidden_states"]),
            with_kwargs=True,
        )
        for block in blocks
    ]
    hooks.append(
        blocks[-1].register_forward_hook(
            lambda _, args, out: seen.append(out if torch.is_tensor(out) else out[0])
        )
    )
    try:
        with torch.no_grad():
            lm.model(input_ids=torch.tensor([ids]), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return torch.cat(seen)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "opt"])
@pytest.mark.parametrize("max_batch_tokens", [1, 12, 4096])
def test_states_are_those_of_a_plain_forward_pass_of_each_text(
    language_model, name, max_batch_tokens
):
    lm = language_model(name)
    found = {}
    for states in read_states(lm, TEXTS, POSITIONS, max_batch_tokens):
        for index in np.unique(states.texts):
            found[int(index)] = states.stream[torch.from_numpy(states.texts == index)]
    assert sorted(found) == [0, 1, 2, 3]
    for index, (ids, where) in enumerate(zip(TEXTS, POSITIONS, strict=True)):
        expected = by_hand(lm, ids)[:, where].transpose(0, 1)
        torch.testing.assert_close(found[index], expected, rtol=1e-4, atol=1e-4)


def test_as_many_positions_of_each_text_make_one_array(language_model):
    lm = language_model("llama")
    where = [[0, len(ids) - 1] for ids in TEXTS]
    found = streams(lm, TEXTS, where, max_batch_tokens=8)
    assert found.shape == (4, 2, 3, 32)
    for index, ids in enumerate(TEXTS):
        expected = by_hand(lm, ids)[:, where[index]].transpose(0, 1)
        assert torch.from_numpy(found[index]).allclose(expected, rtol=1e-4, atol=1e-4)


def test_the_lens_at_the_last_depth_is_what_the_model_says(specimen, metaspace):
    lm, ids = LanguageModel(specimen.model, metaspace), specimen.ids[0].tolist()
    (states,) = read_states(lm, [ids], [range(len(ids))])
    ((piece, found),) = Lens(lm).logprobs(states.stream[:, -1])
    assert piece == slice(0, len(ids))
    expected = specimen.logits()[0].log_softmax(-1)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_the_lens_at_an_earlier_depth_is_norm_and_unembedding(language_model, monkeypatch):
    lm = language_model("llama")
    monkeypatch.setattr(lens_module, "CHUNK", 2 * lm.vocabulary_size)
    (states,) = read_states(lm, TEXTS[:1], [[0, 1, 2]])
    pieces = list(Lens(lm).logprobs(states.stream[:, 1]))
    assert [piece for piece, _ in pieces] == [slice(0, 2), slice(2, 3)]
    with torch.no_grad():
        expected = lm.model.lm_head(lm.model.model.norm(states.stream[:, 1])).log_softmax(-1)
    found = torch.cat([logprobs for _, logprobs in pieces])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_broken_weights_are_an_error_and_leave_no_hooks(language_model):
    lm = language_model("llama")
    lens = Lens(lm)
    with pytest.raises(NumericalError, match="not finite"):
        list(lens.logprobs(torch.full((1, 32), float("nan"))))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in lm.model.modules())
    assert all("forward" not in m.__dict__ for m in lm.model.modules())
