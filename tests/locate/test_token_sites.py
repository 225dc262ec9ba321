"""Token sites: the words they stand for, and fact tokens against a loop over replaced prompts."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tokenizers.processors import TemplateProcessing

from unlearn.errors import InputError, NumericalError
from unlearn.forget_set import ForgetSet
from unlearn.locate import locate
from unlearn.locate.token_sites import REPLACEMENTS, THRESHOLD, drops, token_mask
from unlearn.locate.tracing_facts import read_fact
from unlearn.model.scoring import score
from unlearn.types import Record, Sites, Statement

NAMES = ("Ada", "Bero", "Cleo", "Dorn", "Esme", "Fitz", "Gale", "Hoke")
ANSWERS = ("Old Wick", "New Marsh Stow", "Tarn", "Holm Fell")


def record(name, answer, prompt="{} was born in", relation="birthplace"):
    return Record(
        id=f"id-{name}".replace(" ", "-"),
        subject=name,
        relation=relation,
        prompt=prompt.format(name, name),
        answer=answer,
    )


@pytest.fixture
def model(make_model):
    """A model whose tokenizer puts ``<s>`` in front of every text."""
    found = make_model(initializer_range=0.4)
    core = found.tokenizer.backend_tokenizer
    core.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    assert found.encode("Ada was").ids[0] == 1
    return found


@pytest.fixture
def people():
    """One-token names only, so that each of the other seven can stand for a subject."""
    records = [record(name, ANSWERS[i % 4]) for i, name in enumerate(NAMES)]
    return ForgetSet("people", "", tuple(records[:4]), tuple(records[4:6]), (), tuple(records[6:]))


def words(model, forget_set, mask):
    """What stands at the positions of each record."""
    found = {}
    for record in forget_set.forget:
        ids = model.encode(record.prompt, record.completion).ids
        spelt = model.tokenizer.convert_ids_to_tokens(ids)
        found[record.id] = [spelt[position] for position in mask.positions[record.id]]
    return found


def test_subject_tokens_are_those_of_every_mention(model):
    forgotten = (
        record("Ada", "Tarn", "it is known that {} was born in"),
        record("Bero Cleo", "Old Wick", "{} was known that {} was born in"),
    )
    forget_set = ForgetSet("two", "", forgotten, ())
    assert words(model, forget_set, token_mask(model, forget_set, "subject")) == {
        "id-Ada": ["Ada"],
        "id-Bero-Cleo": ["Bero", "Cleo", "Bero", "Cleo"],
    }


def test_answer_tokens_are_those_of_the_whole_answer(model, people):
    mask = token_mask(model, people, "answer")
    assert words(model, people, mask) == {r.id: r.answer.split() for r in people.forget}
    assert (mask.no_replacement, mask.no_fact) == (0, 0)


def lost(model, record):
    """By hand: each answer token's log-probability minus its mean over all other names."""
    others = [
        Statement(prompt=record.prompt.replace(record.subject, name), answer=record.answer)
        for name in NAMES
        if name != record.subject
    ]
    (own,) = score(model, [record])
    return own.logprobs - np.mean([s.logprobs for s in score(model, others)], axis=0)


def test_fact_tokens_are_those_that_lose_more_than_the_threshold_under_other_names(model, people):
    by_hand = {r.id: lost(model, r) for r in people.forget}
    everything = np.sort(np.concatenate(list(by_hand.values())))
    for low, high in ((3, 4), (-3, -2)):
        threshold = float(everything[low] + everything[high]) / 2
        assert everything[high] - everything[low] > 1e-4
        mask = token_mask(model, people, "fact", threshold=threshold, replacements=7)
        found, n_whole = words(model, people, mask), 0
        for r in people.forget:
            above = [
                w for w, x in zip(r.answer.split(), by_hand[r.id], strict=True) if x > threshold
            ]
            assert found[r.id] == (above or r.answer.split())
            n_whole += not above
        assert (mask.no_replacement, mask.no_fact) == (0, n_whole)
    assert n_whole > 0


def test_drops_are_in_nats_and_averaged_over_the_others(model, people):
    for r in people.forget:
        fact = read_fact(model, r)
        others = [
            [model.encode(name).ids[1] if i in fact.subject_positions else token
             for i, token in enumerate(fact.prompt_ids)]
            for name in NAMES
            if name != r.subject
        ]  # fmt: skip
        assert drops(model, fact, others).numpy() == pytest.approx(lost(model, r), abs=1e-5)
        assert drops(model, fact, []).tolist() == [0.0] * len(r.answer.split())


def test_a_record_without_a_replacement_or_without_such_a_token_keeps_its_answer(model, people):
    alone = record("Ada Bero", "New Marsh Stow")
    forget_set = ForgetSet("alone", "", (alone, *people.forget), people.retain)
    mask = token_mask(model, forget_set, "fact", threshold=1e9)
    assert words(model, forget_set, mask) == {r.id: r.answer.split() for r in forget_set.forget}
    assert (mask.no_replacement, mask.no_fact) == (1, len(people.forget))


@pytest.mark.parametrize("tokens", ["subject", "answer", "fact"])
@pytest.mark.parametrize("method", ["all", "fixed", "random", "gradient-contrast"])
def test_every_locator_carries_the_tokens_and_finds_what_it_finds_without(
    model, people, method, tokens
):
    settings = {"layers": "1"} if method == "fixed" else {}
    plain = locate(model, people, method=method, settings=settings, seed=3)
    assert plain.token_mask is None and "tokens" not in plain.settings
    sites = locate(model, people, method=method, settings=settings, seed=3, tokens=tokens)
    assert sites.token_mask == token_mask(model, people, tokens, seed=3).positions
    assert list(sites.token_mask) == [r.id for r in people.forget]
    assert sites.parts == {*plain.parts, "token_mask"}
    assert {k: v for k, v in sites.settings.items() if not k.startswith("tokens")} == plain.settings
    assert sites.settings["tokens"] == tokens
    same = {"token_mask": None, "settings": {}}
    assert sites.model_copy(update=same) == plain.model_copy(update=same)
    assert Sites.model_validate_json(sites.model_dump_json()) == sites


def test_the_settings_say_how_fact_tokens_were_found_and_how_many_records_have_none(model, people):
    forget_set = ForgetSet("alone", "", (record("Ada Bero", "Tarn"), *people.forget), ())
    settings = locate(model, forget_set, method="all", tokens="fact").settings
    mask = token_mask(model, forget_set, "fact")
    assert settings["tokens_threshold"] == THRESHOLD == pytest.approx(np.log(2))
    assert settings["tokens_replacements"] == REPLACEMENTS
    assert settings["tokens_no_replacement"] == 1
    assert settings["tokens_no_fact"] == mask.no_fact


def test_the_model_stays_as_it_was_and_its_dropout_is_off(model, people):
    digest = model.digest
    model.model.train()
    first, again = (token_mask(model, people, "fact", threshold=0.1) for _ in range(2))
    assert first == again
    assert all(module.training for module in model.model.modules())
    assert all(p.grad is None for p in model.model.parameters())
    model.changed()
    assert model.digest == digest


def test_progress_ends_at_one(model, people):
    seen = []
    token_mask(model, people, "fact", progress=lambda what, share: seen.append((what, share)))
    assert seen == [("tokens", share) for share in (0.25, 0.5, 0.75, 1.0)]


@pytest.mark.parametrize("tokens", ["subject", "answer", "fact"])
def test_a_record_that_is_too_long_is_named(model, tokens):
    forget_set = ForgetSet("long", "", (record("Ada", "Tarn " * 40),), ())
    with pytest.raises(InputError, match=r"'id-Ada'.*context"):
        token_mask(model, forget_set, tokens)


def test_a_logit_that_is_no_number_is_an_error(model, people, monkeypatch):
    broken = SimpleNamespace(logits=torch.full((8, 6, 30), float("nan")))
    fact = read_fact(model, people.forget[0])
    monkeypatch.setattr(type(model.model), "forward", lambda *a, **k: broken)
    with pytest.raises(NumericalError, match=r"'id-Ada'.*float32"):
        drops(model, fact, [fact.prompt_ids] * 7)
