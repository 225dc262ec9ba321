"""Agreement and drift against scipy, one text at a time."""

import math

import numpy as np
import pytest
import torch
from known_towns import (
    FORGET,
    HOLDOUT,
    RETAIN,
    bench,
    by_hand,
    figures,
    masked_by_the_head,
    trio,
    untrained,
)
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy

from unlearn.errors import NumericalError
from unlearn.probes.agreement import Agreement, Drift, compared, divergences, drifts
from unlearn.types import Record


def distributions(lm, one):
    """Next-token distributions at every token of one text, and where its answer starts."""
    encoding = lm.encode(one.prompt, one.completion)
    with torch.no_grad():
        logits = lm.model(torch.tensor([encoding.ids])).logits[0]
    return logits.double().softmax(-1).numpy(), encoding.start


def test_agreement_is_scipys_jensen_shannon_divergence_at_the_answer_tokens():
    original, reference = trio()
    measured = Agreement().measure(bench(masked_by_the_head(original)))
    assert list(measured) == ["original", "unlearned"]
    for role, lm in (("original", original), ("unlearned", masked_by_the_head(original))):
        found = figures(measured, role)
        for split, records in (("forget", FORGET), ("holdout", HOLDOUT)):
            for one in records:
                (p, start), (q, _) = distributions(lm, one), distributions(reference, one)
                each = [
                    jensenshannon(p[at], q[at]) ** 2 / math.log(2)
                    for at in range(start - 1, len(p) - 1)
                ]
                mean = found[f"divergence_from_reference/{split}"][one.id]
                first = found[f"first_divergence_from_reference/{split}"][one.id]
                assert mean == pytest.approx(np.mean(each), abs=1e-4)
                assert first == pytest.approx(each[0], abs=1e-4)


def test_the_reference_itself_agrees_with_itself():
    found = figures(Agreement().measure(bench(trio().reference)), "unlearned")
    for values in found.values():
        assert max(values.values()) < 1e-6


def test_drift_is_scipys_relative_entropy_and_a_relative_distance_over_all_tokens():
    original, reference = trio()
    text = Record(
        id="g", subject="Wick", relation="general", prompt="Old Wick was known", answer="in Tarn"
    )
    measured = Drift().measure(bench(reference, general=(text,)))
    assert list(measured) == ["unlearned", "reference"]
    found = figures(measured, "unlearned")
    for split, records in (("retain", RETAIN), ("holdout", HOLDOUT), ("general", (text,))):
        for one in records:
            (p, _), (q, _) = distributions(original, one), distributions(reference, one)
            kl = found[f"kl_from_original/{split}"][one.id]
            assert kl == pytest.approx(np.mean(entropy(p, q, axis=1)), rel=1e-3, abs=1e-5)
            was, now = by_hand(original, one)[-1], by_hand(reference, one)[-1]
            moved = ((now - was).norm(dim=-1) / was.norm(dim=-1)).mean()
            assert found[f"state_drift/{split}"][one.id] == pytest.approx(float(moved), rel=1e-3)
    assert set(figures(Drift().measure(bench(original)), "unlearned")["state_drift/retain"]) == {
        one.id for one in RETAIN
    }


def test_the_original_has_not_drifted():
    for values in figures(Drift().measure(bench(trio().original)), "unlearned").values():
        assert set(values.values()) == {0.0}


def test_batches_and_order_do_not_matter_and_equal_texts_are_read_once():
    original, reference = trio()
    whole = divergences(reference, [original], FORGET)[0]
    for records, size in ((FORGET, 1), (FORGET[::-1], 20)):
        again = divergences(reference, [original], records, max_batch_tokens=size)[0]
        again = again if records == FORGET else again[::-1]
        for one, other in zip(whole, again, strict=True):
            assert one == pytest.approx(other, abs=1e-5)
    texts = [one.text for one in RETAIN]
    (first,), (second,) = (
        drifts(original, [reference], given, size)
        for given, size in ((texts, 1024), (texts[::-1], 9))
    )
    assert np.array(first) == pytest.approx(np.array(second[::-1]), rel=1e-3)
    calls = []
    hook = original.model.register_forward_pre_hook(
        lambda _, args, kwargs: calls.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    try:
        Drift().measure(bench(reference, neighbors=RETAIN[:3]))
    finally:
        hook.remove()
    assert sum(calls) == len(RETAIN) + len(HOLDOUT)


def test_a_padded_vocabulary_is_compared_on_what_both_have():
    original, reference = trio()
    padded = original.copy()
    padded.model.resize_token_embeddings(original.vocabulary_size + 7, mean_resizing=False)
    (plain,), (wide,) = (divergences(reference, [lm], FORGET) for lm in (original, padded))
    for one, other in zip(plain, wide, strict=True):
        assert one == pytest.approx(other, abs=1e-5)


def test_a_stream_of_another_width_has_no_drift_of_states():
    found = figures(Drift().measure(bench(untrained(hidden_size=16))), "unlearned")
    assert {key.split("/")[0] for key in found} == {"kl_from_original"}


def test_broken_logits_are_an_error():
    with pytest.raises(NumericalError, match="not finite"):
        compared(torch.full((1, 3), float("nan")), torch.zeros(1, 3), lambda p, q: (p - q).sum(-1))


def test_a_forget_set_without_anything_to_keep_has_no_drift():
    given = bench(trio().original, retain=(), holdout=())
    assert Drift().measure(given) == {}
    found = figures(Agreement().measure(given), "unlearned")
    assert {key.split("/")[1] for key in found} == {"forget"}
