"""Which echoed tokens are the answer's, written out by hand for the ways in which servers spell."""

import hashlib
import math

import numpy as np
import pytest

from unlearn.errors import EndpointError, InputError, TextError
from unlearn.model.echo import Logprobs, completion_scores, echoed, read_logprobs


def reply(tokens, offsets, **changes):
    fields = {
        "tokens": tokens,
        "text_offset": offsets,
        "token_logprobs": [None, *(-float(at) for at in range(1, len(tokens)))],
        "top_logprobs": [None, *({"x": -1.5} for _ in tokens[1:])],
    }
    return Logprobs.model_validate(fields | changes)


def scores(found, prompt, completion, n_generated=0):
    tokens = echoed(found, prompt + completion, n_generated, "here")
    return completion_scores(tokens, prompt, completion, "statement 0", "here")


@pytest.mark.parametrize(
    ("tokens", "offsets", "prompt", "completion", "n_own"),
    [
        (["Ada", " in", " Tarn"], [0, 3, 6], "Ada in", " Tarn", 1),
        (["Ada", " in", " Ta", "rn"], [0, 3, 6, 9], "Ada in", " Tarn", 2),
        # A token over the boundary counts as the completion's.
        (["Ada", " inT", "arn"], [0, 3, 7], "Ada in", "Tarn", 2),
        # A special token in front, of no width and of some.
        (["", "Ada", " Tarn"], [0, 0, 3], "Ada", " Tarn", 1),
        (["<s>", "Ada", " Tarn"], [0, 3, 6], "Ada", " Tarn", 1),
        (["<s>", "Ada", " Tarn"], [0, 0, 3], "Ada", " Tarn", 1),
        # The vocabulary's own spelling, with a blank in front that the text has not.
        (["<s>", "▁Ada", "▁Tarn"], [0, 3, 7], "Ada", " Tarn", 1),
        (["Ada", "ĠTarn", "Ċ"], [0, 3, 8], "Ada", " Tarn\n", 2),
        # Parts of characters, as replacements, as bytes, and as nothing.
        (["Zo", "��", "�", " x"], [0, 2, 2, 3], "Zo🎉", " x", 1),
        (["Zo", "�", "�", "�"], [0, 2, 3, 3], "Zoë", "é", 2),
        (["Zo", "bytes:\\xf0\\x9f", "bytes:\\x8e", "bytes: \\xc3", "bytes:\\xa9"],
         [0, 2, 2, 3, 4], "Zo🎉", " é", 2),
        (["Zo", "", "é"], [0, 2, 2], "Zo", "é", 2),
        (["Zo", "", "é", " x"], [0, 2, 2, 3], "Zoé", " x", 1),
    ],
)  # fmt: skip
def test_the_completion_begins_at_the_first_token_beyond_the_prompt(
    tokens, offsets, prompt, completion, n_own
):
    found = scores(reply(tokens, offsets), prompt, completion)
    n = len(tokens)
    np.testing.assert_array_equal(found.logprobs, [-float(at) for at in range(n - n_own, n)])


def test_what_the_server_had_to_write_is_left_out():
    found = reply(["Ada", " Tarn", " and"], [0, 3, 8])
    np.testing.assert_array_equal(scores(found, "Ada", " Tarn", 1).logprobs, [-1.0])


def test_greedy_is_what_no_other_token_is_more_probable_than():
    tops = [None, {"a": -1.0, "b": -3.0}, {"c": -1.5}, {"�": -3.0}]
    found = scores(reply(["A", "b", "c", "d"], [0, 1, 2, 3], top_logprobs=tops), "A", "bcd")
    assert found.greedy.tolist() == [True, False, True]
    assert found.exact_memorisation == pytest.approx(2 / 3)
    assert found.nll_sum == 6.0


def test_ids_are_the_first_63_bits_of_the_token_s_sha256():
    found = scores(reply(["A", "b"], [0, 1]), "A", "b")
    bits = int(hashlib.sha256(b"b").hexdigest()[:16], 16) // 2
    assert found.ids.tolist() == [bits]
    assert np.isnan(found.mean_logprob).all() and np.isnan(found.std_logprob).all()


@pytest.mark.parametrize(
    ("tokens", "offsets"),
    [
        (["Ada", " Tarn"], [0, 4]),
        (["Ada", " Torn"], [0, 3]),
        (["Tarn", " Ada"], [0, 4]),
        (["Ada", "Tarn"], [0, 3]),
        (["Ada", "��", " Tarn"], [0, 3, 5]),
        ([" Tarn"], [0]),
    ],
)
def test_tokens_that_do_not_spell_the_text_are_refused_without_showing_it(tokens, offsets):
    with pytest.raises(EndpointError, match="text_offset") as caught:
        scores(reply(tokens, offsets), "Ada", " Tarn")
    assert "Tarn" not in str(caught.value)


def test_no_echo_at_all_is_refused():
    with pytest.raises(EndpointError, match="text_offset"):
        scores(reply(["x"], [0]), "Ada", " Tarn", 1)


@pytest.mark.parametrize("value", [None, math.nan, -math.inf])
def test_a_log_probability_that_is_no_number_is_refused(value):
    with pytest.raises(EndpointError, match="no finite"):
        scores(reply(["A", "b"], [0, 1], token_logprobs=[None, value]), "A", "b")


def test_a_token_without_the_most_probable_one_beside_it_is_refused():
    with pytest.raises(EndpointError, match="log-probability"):
        scores(reply(["A", "b"], [0, 1], top_logprobs=[None, None]), "A", "b")


def test_a_completion_that_the_tokenizer_strips_is_named():
    found = reply(["A", "b"], [0, 1])
    tokens = echoed(found, "Ab", 0, "here")
    with pytest.raises(TextError, match="statement 0: a completion of 1 char") as caught:
        completion_scores(tokens, "Ab", " ", "statement 0", "here")
    assert caught.value.digest == TextError.digest_of("Ab", " ")


def test_a_completion_from_the_first_token_on_is_refused():
    with pytest.raises(InputError, match="statement 0: no token stands in front"):
        scores(reply(["Ab", "c"], [0, 2]), "A", "bc")


@pytest.mark.parametrize(
    "given",
    [
        None,
        [],
        {"content": []},
        {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []},
        {"tokens": ["a"], "token_logprobs": [], "top_logprobs": [None], "text_offset": [0]},
        {"tokens": ["a"], "token_logprobs": [None], "top_logprobs": None, "text_offset": [0]},
    ],
)
def test_log_probabilities_in_another_format_are_refused(given):
    with pytest.raises(EndpointError, match="log-probabilities"):
        read_logprobs(given, "here")
