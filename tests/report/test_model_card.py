"""Model cards: the hub's own reader finds the figures, and what others wrote stays."""

import math

import pytest
from huggingface_hub import ModelCard

from unlearn.errors import InputError
from unlearn.report.model_card import BEGIN, DATASET, END, model_card
from unlearn.types import Estimate

OTHERS = """---
license: mit
tags:
- llama
model-index:
- name: mine
  results:
  - task:
      type: text-generation
    dataset:
      name: Other
      type: other
    metrics:
    - type: accuracy
      value: 0.5
---

# My model

Words of mine.
"""


def figures(card):
    return {
        (one.metric_type, one.dataset_split, one.dataset_config): (
            one.metric_value,
            one.metric_args["n"],
        )
        for one in card.data.eval_results
        if one.dataset_type == DATASET
    }


@pytest.mark.filterwarnings("error")
def test_the_hub_reads_every_figure_of_the_unlearned_model(deep):
    card = ModelCard(model_card(deep))
    expected = {
        (f.metric, f.split, f.condition or None): (f.models["unlearned"].value, 36)
        for f in deep.findings
    }
    assert figures(card) == expected
    assert card.data.tags == ["machine-unlearning"]
    assert all({"low", "high"} <= set(one.metric_args) for one in card.data.eval_results)


def test_the_section_has_every_claim_every_limit_and_nothing_personal(result):
    text = model_card(result)
    plain = text.replace("\\", "")
    for claim in result.claims:
        assert f"| {claim.statement} | {claim.verdict} |" in plain
    assert all(limit in plain for limit in result.limits)
    for private in ("Quill", "one-person", "lab:full", "e7702d4c", "3f9c"):
        assert private not in text


def test_a_card_that_is_there_keeps_all_but_its_section(result):
    first = model_card(result, before=OTHERS)
    card = ModelCard(first)
    assert card.data.license == "mit" and card.data.tags == ["llama", "machine-unlearning"]
    assert card.data.model_name == "mine" and "Words of mine." in card.text
    assert "other" in {one.dataset_type for one in card.data.eval_results}
    again = model_card(result.model_copy(update={"tier": "deep"}), before=first)
    assert again.count(BEGIN) == again.count(END) == 1 and "tier deep" in again
    assert len(ModelCard(again).data.eval_results) == len(card.data.eval_results)
    assert model_card(result, before=again) == first


def test_a_card_without_a_head_gets_one(result, caplog):
    text = model_card(result, before="# Mine\n")
    assert text.startswith("---\n") and "# Mine\n" in text and not caplog.records


@pytest.mark.parametrize("head", ["---\n- a\n---\n", "---\na: [\n---\n", "---\ntags: 1\n---\n"])
def test_a_head_that_is_none_is_refused(result, head):
    with pytest.raises(InputError, match="head that is no model card's"):
        model_card(result, before=head)


def test_what_could_not_be_computed_is_no_figure(result):
    odd = Estimate(value=math.nan, low=0, high=1, n=1, clusters=1)
    wide = Estimate(value=0.5, low=-math.inf, high=1, n=1, clusters=1)
    findings = tuple(
        result.findings[place].model_copy(update={"models": {"unlearned": one}})
        for place, one in enumerate((odd, wide))
    )
    (found,) = ModelCard(
        model_card(result.model_copy(update={"findings": findings}))
    ).data.eval_results
    assert found.metric_value == 0.5 and found.metric_args == {"n": 1}


def test_a_base_model_of_the_hub_is_named(result):
    assert ModelCard(model_card(result, base_model="a/b")).data.base_model == "a/b"
    assert ModelCard(model_card(result)).data.base_model is None
