"""Scores of completions, against one text at a time and a loop over the plain definition."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unlearn.errors import InputError, NumericalError
from unlearn.model import scoring
from unlearn.model.language_model import LanguageModel
from unlearn.model.scoring import TokenScores, score, statistics
from unlearn.types import Statement

ARCHITECTURES = ("gpt2", "llama", "gpt_neox", "opt", "bloom", "gemma2", "cohere", "mamba")
STATEMENTS = [
    Statement(prompt="Ada Quill was born in", answer="Tarn"),
    Statement(prompt="Where was Ada Quill born? Ada Quill was born in", answer="Upper Tarn 🎉."),
    Statement(prompt="Ben", answer="Ostrow studied glass in Mirel and lives in Upper Tarn"),
    Statement(prompt="The café of Zoë Quill serves", answer="日本 tea", separator=""),
    Statement(prompt="Ada Qu", answer="ill", separator=""),
    Statement(prompt="Ada Quill was born in", answer="T"),
    Statement(prompt="Ada Quill was born in", answer="Tarn and lives in Upper Tarn."),
]


@pytest.fixture(params=ARCHITECTURES)
def lm(request, language_model):
    return language_model(request.param)


@pytest.fixture
def gpt2(language_model):
    return language_model("gpt2")


def one_by_one(lm: LanguageModel, statement: Statement) -> TokenScores:
    """The definition, token by token in double precision, from an unpadded pass over one text."""
    ids, start = lm.encode(statement.prompt, statement.completion)
    with torch.no_grad():
        logits = lm.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].double().numpy()
    logprobs, greedy, means, stds = [], [], [], []
    for position in range(start, len(ids)):
        row = logits[position - 1]
        log_p = [x - row.max() - math.log(sum(np.exp(row - row.max()))) for x in row]
        mean = sum(math.exp(x) * x for x in log_p)
        logprobs.append(log_p[ids[position]])
        greedy.append(max(range(len(row)), key=row.__getitem__) == ids[position])
        means.append(mean)
        stds.append(math.sqrt(sum(math.exp(x) * (x - mean) ** 2 for x in log_p)))
    return TokenScores(
        np.array(ids[start:]), *(np.array(column) for column in (logprobs, greedy, means, stds))
    )


def assert_same(one: TokenScores, other: TokenScores, tolerance: float = 1e-5) -> None:
    np.testing.assert_array_equal(one.ids, other.ids)
    np.testing.assert_array_equal(one.greedy, other.greedy)
    for field in ("logprobs", "mean_logprob", "std_logprob"):
        np.testing.assert_allclose(
            getattr(one, field), getattr(other, field), rtol=tolerance, atol=tolerance
        )


def test_scores_are_those_of_the_plain_definition(lm):
    for found, statement in zip(score(lm, STATEMENTS), STATEMENTS, strict=True):
        assert_same(found, one_by_one(lm, statement), 2e-5)


def test_some_tokens_are_greedy_and_some_are_not(gpt2):
    """Otherwise comparing the greedy flags would show nothing."""
    greedy_texts = []
    for statement in STATEMENTS:
        ids = gpt2.encode(statement.prompt).ids
        with torch.no_grad():
            best = int(gpt2.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
        piece = gpt2.tokenizer.decode([best])
        if gpt2.encode(statement.prompt, piece).ids == [*ids, best]:
            greedy_texts.append(Statement(prompt=statement.prompt, answer=piece, separator=""))
    assert greedy_texts
    assert all(found.correct for found in score(gpt2, greedy_texts))
    assert not all(found.correct for found in score(gpt2, STATEMENTS))


@pytest.mark.parametrize("max_batch_tokens", [1, 30, 70, 10**6])
def test_scores_do_not_depend_on_the_batch_size(lm, max_batch_tokens):
    batched = score(lm, STATEMENTS, max_batch_tokens=max_batch_tokens)
    for one, other in zip(batched, score(lm, STATEMENTS), strict=True):
        assert_same(one, other)


def test_scores_do_not_depend_on_order_or_duplicates(lm):
    order = [3, 1, 1, 6, 0, 2, 5, 4, 3]
    shuffled = score(lm, [STATEMENTS[i] for i in order])
    straight = score(lm, STATEMENTS)
    for one, index in zip(shuffled, order, strict=True):
        assert_same(one, straight[index])


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_tokenizer_s_padding_side_plays_no_part(gpt2, side, monkeypatch):
    before = score(gpt2, STATEMENTS)
    monkeypatch.setattr(gpt2.tokenizer, "padding_side", side)
    for one, other in zip(score(gpt2, STATEMENTS), before, strict=True):
        assert_same(one, other, 0)


def test_narrow_weights_give_nearly_the_same_scores(language_model):
    wide = language_model("llama")
    narrow = LanguageModel(wide.copy().model.to(torch.bfloat16), wide.tokenizer)
    for one, other in zip(score(narrow, STATEMENTS), score(wide, STATEMENTS), strict=True):
        assert one.logprobs.dtype == np.float32
        np.testing.assert_allclose(one.logprobs, other.logprobs, rtol=0.1, atol=0.2)
        np.testing.assert_allclose(one.mean_logprob, other.mean_logprob, rtol=0.1, atol=0.2)


def calls(lm: LanguageModel, statements, **options) -> list[torch.Size]:
    """The shapes of the batches that the model was called with."""
    shapes: list[torch.Size] = []

    def note(module, args, kwargs):
        shapes.append(kwargs["input_ids"].shape)

    handle = lm.model.register_forward_pre_hook(note, with_kwargs=True)
    score(lm, statements, **options)
    handle.remove()
    return shapes


def test_a_text_that_occurs_twice_is_scored_once(gpt2):
    again = Statement(prompt="Ada Quill was born", answer="in Tarn")
    split_otherwise = [*STATEMENTS[:1], *STATEMENTS[:1], again]
    assert [shape[0] for shape in calls(gpt2, split_otherwise)] == [2]


def test_batches_hold_texts_of_like_length_within_the_budget(gpt2):
    shapes = calls(gpt2, STATEMENTS, max_batch_tokens=60)
    assert sum(rows for rows, _ in shapes) == len(STATEMENTS)
    assert all(rows == 1 or rows * width <= 60 for rows, width in shapes)
    widths = [width for _, width in shapes]
    assert widths == sorted(widths, reverse=True)
    assert len(shapes) < len(STATEMENTS)


def test_a_long_text_gets_a_batch_of_its_own_over_the_budget(gpt2):
    assert {rows for rows, _ in calls(gpt2, STATEMENTS, max_batch_tokens=2)} == {1}


def test_large_vocabularies_are_worked_on_in_pieces(lm, monkeypatch):
    whole = score(lm, STATEMENTS)
    monkeypatch.setattr(scoring, "CHUNK", 3 * lm.vocabulary_size)
    for one, other in zip(score(lm, STATEMENTS), whole, strict=True):
        assert_same(one, other, 1e-6)


def test_no_statements_give_no_scores(gpt2):
    assert score(gpt2, []) == []


def test_a_completion_of_one_token(gpt2):
    (found,) = score(gpt2, [Statement(prompt="Ada", answer="Quill")])
    assert len(found.ids) == 1
    assert found.nll_sum == found.nll_per_token == pytest.approx(-math.log(found.probability))


def test_progress_rises_to_one(gpt2):
    seen: list[tuple[str, float]] = []
    score(gpt2, STATEMENTS, max_batch_tokens=60, progress=lambda *now: seen.append(now))
    shares = [share for _, share in seen]
    assert shares == sorted(set(shares))
    assert shares[-1] == 1
    assert {what for what, _ in seen} == {"score"}


def test_scoring_leaves_modes_gradients_and_random_numbers_alone(gpt2):
    gpt2.model.train()
    gpt2.model.transformer.h[0].eval()
    modes = [module.training for module in gpt2.model.modules()]
    state = torch.get_rng_state()
    first = score(gpt2, STATEMENTS)
    assert [module.training for module in gpt2.model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None and p.requires_grad for p in gpt2.model.parameters())
    gpt2.model.eval()
    for one, other in zip(score(gpt2, STATEMENTS), first, strict=True):
        assert_same(one, other, 0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_logit_that_is_no_number_names_the_statement_and_not_its_text(language_model, bad):
    gpt2 = language_model("gpt2", tie_word_embeddings=False)
    ids, _ = gpt2.encode("The café")
    only_there = set(ids) - {i for s in STATEMENTS[:3] for i in gpt2.encode(s.text).ids}
    with torch.no_grad():
        gpt2.model.get_input_embeddings().weight[min(only_there), 0] = bad
    assert len(score(gpt2, STATEMENTS[:3])) == 3
    gpt2.model.train()
    with pytest.raises(NumericalError, match=r"statement 3: .*not finite") as caught:
        score(gpt2, STATEMENTS)
    assert "Quill" not in str(caught.value)
    assert gpt2.model.training, "the mode is restored after an error too"


def test_an_unreadable_statement_is_named_by_its_index_and_not_its_text(gpt2):
    long = Statement(prompt="Ada Quill " * 60, answer="Tarn")
    with pytest.raises(InputError, match=r"statement 2: a text of \d+ tokens") as caught:
        score(gpt2, [STATEMENTS[0], STATEMENTS[0], long])
    assert "Quill" not in str(caught.value)


def test_a_completion_that_begins_in_the_very_first_token_is_refused(gpt2):
    merged = Statement(prompt="T", answer="arn", separator="")
    assert gpt2.encode("T", "arn").start == 0
    with pytest.raises(InputError, match="statement 1: no token stands in front"):
        score(gpt2, [STATEMENTS[0], merged])


def test_a_bos_is_enough_in_front_of_a_completion(language_model):
    llama = language_model("llama")
    merged = Statement(prompt="T", answer="arn", separator="")
    (found,) = score(llama, [merged])
    assert_same(found, one_by_one(llama, merged))


def made(greedy: list[bool], logprobs: list[float] | None = None) -> TokenScores:
    n = len(greedy)
    values = np.array(logprobs if logprobs is not None else [-1.0] * n, dtype=np.float32)
    return TokenScores(
        np.zeros(n, dtype=np.int64), values, np.array(greedy), np.zeros(n), np.ones(n)
    )


@pytest.mark.parametrize(
    ("greedy", "strength", "exact"),
    [
        ([True], 1, 1),
        ([False], 0, 0),
        ([False, False, False], 0, 0),
        ([True, True, True], 1, 1),
        ([True, True, False], 0, 2 / 3),
        ([False, True, True, True], 3 / 4, 3 / 4),
        ([True, False, True, True], 1 / 2, 3 / 4),
    ],
)
def test_extraction_strength_and_exact_memorisation_in_closed_form(greedy, strength, exact):
    found = made(greedy)
    assert found.extraction_strength == strength
    assert found.exact_memorisation == pytest.approx(exact)
    assert found.correct is (strength == 1)


@given(st.lists(st.booleans(), min_size=1, max_size=30))
def test_extraction_strength_is_one_less_the_shortest_hint_s_share(greedy):
    hints = [k for k in range(len(greedy) + 1) if all(greedy[k:])]
    assert made(greedy).extraction_strength == pytest.approx(1 - min(hints) / len(greedy))


@given(st.lists(st.floats(-50, 0), min_size=1, max_size=30))
def test_probability_is_the_geometric_mean_of_token_probabilities(logprobs):
    found = made([True] * len(logprobs), logprobs)
    product = math.prod(math.exp(x) for x in found.logprobs.tolist())
    if product > 0:
        assert found.probability == pytest.approx(product ** (1 / len(logprobs)), rel=1e-6)
    assert found.nll_sum == pytest.approx(-sum(found.logprobs.tolist()), rel=1e-6, abs=1e-12)
    assert 0 < found.probability <= 1


def test_a_masked_entry_of_the_vocabulary_changes_nothing_but_its_own_share():
    logits = torch.zeros(1, 1, 4)
    logits[..., 3] = -torch.inf
    where = torch.tensor([0]), torch.tensor([0])
    jobs = [SimpleNamespace(statement=0)]
    _, token, greedy, mean, std = statistics(logits, *where, torch.tensor([1]), jobs)
    assert token[0] == mean[0] == pytest.approx(-math.log(3))
    assert std[0] == pytest.approx(0, abs=1e-6) and not greedy[0]
    with pytest.raises(NumericalError, match="statement 0"):
        statistics(logits, *where, torch.tensor([3]), jobs)


def test_uniform_logits_have_the_closed_form_of_a_fair_die(gpt2):
    with torch.no_grad():
        gpt2.model.get_output_embeddings().weight.zero_()
    n = gpt2.vocabulary_size
    for found in score(gpt2, STATEMENTS):
        np.testing.assert_allclose(found.logprobs, -math.log(n), rtol=1e-6)
        np.testing.assert_allclose(found.mean_logprob, -math.log(n), rtol=1e-6)
        np.testing.assert_allclose(found.std_logprob, 0, atol=1e-5)
        assert found.probability == pytest.approx(1 / n)


def test_a_trained_model_knows_how_its_stories_begin(shared_data):
    lm = LanguageModel.load(shared_data / "models/stories260K")
    known = Statement(prompt="Once upon", answer="a time, there was a little girl named Lily.")
    foreign = Statement(prompt="Once upon", answer="glass tariff quotas, ennui reigned.")
    statements = [known, foreign]
    for found, statement in zip(score(lm, statements), statements, strict=True):
        assert_same(found, one_by_one(lm, statement), 1e-4)
    there, absent = score(lm, statements)
    assert there.correct
    assert there.probability > 0.5 > 0.01 > absent.probability
