"""Gates against slow and obvious versions; hashed ones decide as those in clear do."""

import random
import re
import unicodedata

import numpy as np
import pytest
import torch

from unlearn.model.gates import GateRates, KeyGate, Rate, Spread, TermGate, WordGate, word_terms
from unlearn.model.hooks import capture
from unlearn.model.terms import Keyed, Terms, in_clear, plain, words

KEYED = Keyed(b"k" * 32)
NAMES = ["Ada Quill", "Zoë Quill", "Ben", "日本", "C3PO", "ß", "각"]


CASED = "[a-zëß0-9]"


def found(text, prompt):
    """Literal occurrences, where no cased letter or digit goes on at an end that is one."""
    before = f"(?<!{CASED})" if re.match(CASED, text[0]) else ""
    behind = f"(?!{CASED})" if re.match(CASED, text[-1]) else ""
    return [m.span() for m in re.finditer(before + re.escape(text) + behind, prompt)]


def random_prompts(n):
    rng = random.Random(0)
    pieces = [*NAMES, "ada", "QUILL", "Benny", "3", " ", " ", ", ", "in ", "x"]
    return ["".join(rng.choice(pieces) for _ in range(rng.randint(1, 9))) for _ in range(n)]


@pytest.mark.parametrize("name", [in_clear, KEYED], ids=["clear", "hashed"])
@pytest.mark.parametrize(
    ("prompt", "spans"),
    [
        ("Was ADA QUILL here?", ["ADA QUILL"]),
        ("Zoe\u0308 Quill, zoë quill", ["Zoe\u0308 Quill", "zoë quill"]),
        ("Benny, Ben.", ["Ben"]),
        ("Ben2 Ubeno", []),
        ("彼は日本人です", ["日本"]),
        ("\u1100\u1161\u11a8", ["\u1100\u1161\u11a8"]),
        ("Ada  Quill Ada. Quill", []),
        ("", []),
    ],
)
def test_terms_are_found_whatever_their_case_and_composition(name, prompt, spans):
    terms = Terms.of(NAMES, name)
    assert [prompt[begin:end] for begin, end in terms.spans(prompt, name)] == spans


def test_terms_are_found_where_a_plain_search_finds_them():
    names = ["ada quill", "ben", "日本"]
    terms, n_found = Terms.of(names), 0
    for prompt in random_prompts(400):
        text = unicodedata.normalize("NFC", prompt.casefold())
        if len(text) == len(prompt):
            expected = sorted(span for name in names for span in found(name, text))
            assert terms.spans(prompt) == expected
            n_found += len(expected)
    assert n_found > 50


def test_hashed_terms_decide_as_those_in_clear_and_hold_none_of_them():
    clear, hashed = Terms.of(NAMES), Terms.of(NAMES, KEYED)
    prompts = random_prompts(400)
    assert [clear.spans(p) for p in prompts] == [hashed.spans(p, KEYED) for p in prompts]
    assert not any(hashed.spans(p, Keyed(b"other" * 4)) for p in prompts)
    told = hashed.model_dump_json().casefold()
    assert not any(plain(name).text in told for name in ("Ada", "Quill", "Zoë", "日本"))


def test_every_character_of_a_plain_text_knows_its_place():
    text = "Straße Zoe\u0308 \u1100\u1161 İ"
    letters, at = plain(text)
    assert letters == unicodedata.normalize("NFC", text.casefold())
    assert len(at) == len(letters) + 1 and at == sorted(at) and at[-1] == len(text)


def test_words_are_runs_of_letters_marks_and_digits():
    assert words("Ada Quill's 2nd, naïve—日本!") == ["ada", "quill", "s", "2nd", "naïve", "日本"]
    assert word_terms("Ada Quill was") == ["ada", "quill", "was", "ada quill", "quill was"]


TEXTS = ["Ada Quill was born in", "Ada Quill likes", "Ben Rusk was born in", "Cleo likes Ben Ben"]


def fitted(name):
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    vectoriser = TfidfVectorizer(analyzer=lambda text: word_terms(text, name))
    classifier = LogisticRegression(C=10.0).fit(vectoriser.fit_transform(TEXTS), [1, 1, 0, 0])
    columns = zip(vectoriser.idf_.tolist(), classifier.coef_[0].tolist(), strict=True)
    weights = dict(zip(vectoriser.get_feature_names_out().tolist(), columns, strict=True))
    gate = WordGate(weights=weights, bias=float(classifier.intercept_[0]))
    return gate, lambda prompts: classifier.decision_function(vectoriser.transform(prompts))


def test_a_word_gate_scores_as_scikit_learn_does_hashed_or_not():
    prompts = [*TEXTS, "Where was Ada Quill?", "Nobody knows", "", "Ben Ben Ben likes Quill"]
    clear, expected = fitted(in_clear)
    hashed, _ = fitted(KEYED)
    np.testing.assert_allclose([clear.score(p) for p in prompts], expected(prompts), atol=1e-12)
    scores = [hashed.score(p, KEYED) for p in prompts]
    np.testing.assert_allclose(scores, expected(prompts), atol=1e-9)
    assert clear.fires(None, prompts) == hashed.fires(None, prompts, KEYED)
    assert 0 < sum(clear.fires(None, prompts)) < len(prompts)
    assert "quill" not in hashed.model_dump_json()


def by_hand(lm, prompt, layers):
    """What goes into the down-projections, for every token, with hooks of its own."""
    names = {layer: lm.anatomy.require_down_projection(layer) for layer in layers}
    with torch.no_grad(), capture(lm.model, names.values(), inputs=True) as seen:
        lm.model(torch.tensor([lm.encode(prompt).ids]))
    n_added = int(lm.adds_bos)
    return {layer: seen[name][0, n_added:].double().numpy() for layer, name in names.items()}


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize("at", ["subject", "last"])
@pytest.mark.parametrize("metric", ["cosine", "mahalanobis"])
def test_a_key_gate_scores_what_its_formula_says(language_model, name, at, metric):
    lm, layers = language_model(name), (0, 1)
    subject = {n: by_hand(lm, "Ada Quill", layers)[n][-1] for n in layers}
    width = len(subject[0])
    rng = np.random.default_rng(0)
    mean, axes = rng.normal(size=width), rng.normal(size=(3, width))
    rows = tuple(map(tuple, axes.tolist()))
    gate = KeyGate(
        metric=metric,
        at=at,
        keys={n: (tuple(subject[n]), tuple(mean + 1)) for n in layers},
        spreads=dict.fromkeys(layers, Spread(tuple(mean.tolist()), rows)),
    )
    for prompt in ("Ada Quill was born in", "Ben Ostrow", "Ada Quill"):
        of_token = []
        keys = by_hand(lm, prompt, layers)
        for token in range(len(keys[0])):
            near = []
            for n in layers:
                pairs = [(keys[n][token] - mean, other - mean) for other in (subject[n], mean + 1)]
                if metric == "cosine":
                    each = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in pairs]
                else:
                    each = [-np.linalg.norm(axes @ a - axes @ b) for a, b in pairs]
                near.append(max(each))
            of_token.append(np.mean(near))
        expected = max(of_token) if at == "subject" else of_token[-1]
        assert gate.score(lm, prompt) == pytest.approx(expected, rel=1e-5, abs=1e-6)
    best = 1.0 if metric == "cosine" else 0.0
    assert gate.score(lm, "Ada Quill") == pytest.approx(best, abs=1e-5)


def test_a_key_gate_asks_each_prompt_by_itself(language_model):
    lm = language_model("llama")
    key = tuple(by_hand(lm, "Ada Quill", (1,))[1][-1].tolist())
    gate = KeyGate(keys={1: (key,)}, spreads={1: Spread((0.0,) * len(key))}, threshold=0.9)
    prompts = ["Ben", "Ada Quill", "", "Zoë Quill was born in Tarn", "Ada Quill"]
    assert gate.fires(lm, prompts) == [gate.fires(lm, [p])[0] for p in prompts]
    assert gate.fires(lm, prompts)[1] and not gate.fires(lm, [""])[0]


def test_rates_are_told_in_counts_and_intervals():
    rates = GateRates(missed=Rate(events=1, n=8, low=0.0032, high=0.527), false_alarms=None)
    assert str(rates) == "missed 1 of 8 (0.3% to 52.7%), false alarms not measured"
    assert TermGate(terms=Terms.of(["Ada"])).fires(None, ["ada", "Adam"]) == [True, False]
