"""What is added behind an MLP arrives, or a norm is in between, over the whole zoo."""

from __future__ import annotations

import pytest
import torch

from unlearn.errors import UnsupportedError
from unlearn.model.language_model import LanguageModel
from unlearn.model.reach import reach


@pytest.fixture
def lm(specimen, byte_level):
    return LanguageModel(specimen.model, byte_level)


def test_a_norm_behind_the_mlp_is_found_and_nothing_else_is_taken_for_one(lm, specimen):
    if specimen.name in {"llama4_text", "rwkv"} or lm.anatomy.down_projection[0] is None:
        pytest.skip("experts, no down-projection, or a first block that rewrites the stream")
    if not specimen.plain_sum:
        with pytest.raises(UnsupportedError, match="layer 0 of memory has a norm behind its MLP"):
            reach(lm, 0)
    else:
        assert reach(lm, 0) == pytest.approx(1, abs=1e-3)


def test_a_multiplier_is_what_comes_back(build, byte_level):
    lm = LanguageModel(build("granite", residual_multiplier=0.25).model, byte_level)
    assert reach(lm, 1) == pytest.approx(0.25, rel=1e-3)


def test_a_norm_is_found_also_where_the_mlp_answers_next_to_nothing(build, byte_level):
    lm = LanguageModel(build("olmo2").model, byte_level)
    with torch.no_grad():
        lm.model.get_submodule(lm.anatomy.down_projection[0]).weight.mul_(1e-4)
    with pytest.raises(UnsupportedError, match="norm behind"):
        reach(lm, 0)


def test_narrow_types_do_not_look_like_norms(build, byte_level):
    lm = LanguageModel(build("llama").model.bfloat16(), byte_level)
    assert reach(lm, 1) == pytest.approx(1, abs=0.02)


def test_the_model_has_no_hook_left_also_after_a_refusal(build, byte_level):
    for name in ("llama", "gemma2"):
        lm = LanguageModel(build(name).model, byte_level)
        try:
            reach(lm, 0)
        except UnsupportedError:
            assert name == "gemma2"
        hooks = [m for m in lm.model.modules() if m._forward_hooks or m._forward_pre_hooks]
        assert hooks == []
