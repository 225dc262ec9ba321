"""A model behind a URL, against the same model at hand; and every way in which a server fails."""

import math

import numpy as np
import pytest
from openai_server import Behaviour, serving

from unlearn.errors import ConfigError, EndpointError, InputError, TextError, UnsupportedError
from unlearn.model import scoring
from unlearn.model.endpoint import Endpoint
from unlearn.model.generation import generate
from unlearn.model.rate_limit import Prices, TokenBucket
from unlearn.types import Statement

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])

STATEMENTS = [
    Statement(prompt="Ada Quill was born in", answer="Tarn"),
    Statement(prompt="Where was Ada Quill born? Ada Quill was born in", answer="Upper Tarn."),
    Statement(prompt="Ben", answer="Ostrow studied glass in Mirel and lives in Upper Tarn"),
    Statement(prompt="Ada Qu", answer="ill", separator=""),
    Statement(prompt="Ada Quill was born in", answer="Tarn"),
]
UNICODE = [
    Statement(prompt="The café of Zoë Quill serves", answer="日本 tea", separator=""),
    Statement(prompt="The café of Zoë", answer="🎉 🦉", separator=""),
    Statement(prompt="🎉", answer="é", separator=""),
]
PROMPTS = [statement.prompt for statement in STATEMENTS]
QUICK = {"Retry-After": "0.01"}


def endpoint_of(served, **changes):
    return Endpoint(served.url, "tiny", **({"requests_per_minute": None} | changes))


@pytest.fixture
def gpt2(language_model):
    return language_model("gpt2")


def assert_same_scores(found, expected):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.logprobs, other.logprobs, atol=1e-4)
        np.testing.assert_array_equal(one.greedy, other.greedy)
        assert np.isnan(one.mean_logprob).all() and np.isnan(one.std_logprob).all()
        assert one.ids.shape == one.mean_logprob.shape == one.std_logprob.shape == other.ids.shape


@pytest.mark.parametrize(
    "behaviour",
    [
        Behaviour(),
        Behaviour(refuses_no_tokens=True),
        Behaviour(refuses_no_tokens=True, reports_usage=False),
        Behaviour(counts_special=True),
    ],
    ids=["plain", "writes one", "does not count", "shifted"],
)
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_scores_are_those_of_the_model_itself(language_model, architecture, behaviour):
    lm = language_model(architecture)
    statements = STATEMENTS + (UNICODE if architecture == "gpt2" else [])
    with serving(lm, behaviour) as served, endpoint_of(served) as endpoint:
        assert endpoint.access == {"text", "logprobs"}
        assert_same_scores(endpoint.score(statements), scoring.score(lm, statements))


def test_some_tokens_are_greedy_and_some_are_not(gpt2):
    """Otherwise comparing the greedy flags would show nothing."""
    (written,) = generate(gpt2, ["Ben"], max_new_tokens=3)
    own = Statement(prompt="Ben", answer=written[0], separator="")
    with serving(gpt2) as served, endpoint_of(served) as endpoint:
        found = endpoint.score([own, *STATEMENTS])
    assert_same_scores(found, scoring.score(gpt2, [own, *STATEMENTS]))
    assert found[0].greedy.any() and not all(score.greedy.all() for score in found)


def test_equal_tokens_have_equal_ids_and_equal_texts_are_asked_once(gpt2):
    with serving(gpt2) as served, endpoint_of(served) as endpoint:
        found = endpoint.score(STATEMENTS)
    np.testing.assert_array_equal(found[0].ids, found[4].ids)
    assert found[0].ids[0] >= 0 and len({*found[1].ids.tolist()}) > 1
    assert len(served.requests) == 1 + len(STATEMENTS) - 1


def test_order_and_results_do_not_depend_on_concurrency(gpt2):
    behaviour = Behaviour(pause=0.05)
    with serving(gpt2, behaviour) as served, endpoint_of(served, max_concurrency=1) as one:
        alone = one.score(STATEMENTS)
        assert served.most_at_once == 1
        with endpoint_of(served, max_concurrency=3) as three:
            done = []
            together = three.score(STATEMENTS, progress=lambda what, share: done.append(share))
        assert 1 < served.most_at_once <= 3
    for first, second in zip(alone, together, strict=True):
        np.testing.assert_array_equal(first.logprobs, second.logprobs)
    assert done == [0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize("behaviour", [Behaviour(), Behaviour(chat_only=True)])
def test_greedy_texts_are_those_of_the_model_itself(gpt2, behaviour):
    expected = generate(gpt2, PROMPTS, max_new_tokens=8, n_samples=2, stop=" b")
    with serving(gpt2, behaviour) as served, endpoint_of(served) as endpoint:
        found = endpoint.generate(PROMPTS, max_new_tokens=8, n_samples=2, stop=" b")
    assert found == expected
    assert len({text for texts in found for text in texts}) > 1


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("way", ["n", "refuses_n", "ignores_n"])
def test_as_many_samples_come_as_were_asked_for(gpt2, chat, way):
    behaviour = Behaviour(chat_only=chat, **({} if way == "n" else {way: True}))
    settings = {"max_new_tokens": 6, "n_samples": 4, "temperature": 1.0, "seed": 3}
    with serving(gpt2, behaviour) as served, endpoint_of(served) as endpoint:
        found = endpoint.generate(["Ben", "Ada", "Ben"], **settings)
        again = endpoint.generate(["Ada"], **settings)
    assert [len(texts) for texts in found] == [4, 4, 4]
    assert found[0] == found[2] != found[1]
    assert len(set(found[0])) > 1
    if way == "n":
        assert again[0] == found[1]
        assert sum(body.get("n") == 4 for _, body in served.requests) == 3


def test_a_chat_server_gives_text_only_under_either_name_of_the_limit(gpt2):
    for behaviour in (Behaviour(chat_only=True), Behaviour(chat_only=True, new_limit_name=True)):
        with serving(gpt2, behaviour) as served, endpoint_of(served) as endpoint:
            assert endpoint.access == {"text"}
            assert endpoint.generate(["Ben"], max_new_tokens=4)[0][0]
            with pytest.raises(UnsupportedError, match="gives text only"):
                endpoint.score(STATEMENTS)


@pytest.mark.parametrize("behaviour", [Behaviour(echoes=False), Behaviour(wrong_offsets=True)])
def test_completions_without_usable_log_probabilities_give_text_only(gpt2, behaviour):
    with serving(gpt2, behaviour) as served, endpoint_of(served) as endpoint:
        assert endpoint.access == {"text"}
        assert endpoint.generate(PROMPTS, max_new_tokens=5) == generate(
            gpt2, PROMPTS, max_new_tokens=5
        )


def test_one_request_finds_out_what_a_server_gives_and_none_is_sent_before(gpt2):
    with serving(gpt2) as served, endpoint_of(served) as endpoint:
        assert served.requests == []
        assert (endpoint.access, len(endpoint.digest)) == ({"text", "logprobs"}, 64)
        endpoint.score([])
        assert len(served.requests) == 1


def test_the_digest_names_address_model_and_fingerprint_alone(gpt2):
    with serving(gpt2, Behaviour(fingerprint=None)) as served:
        with endpoint_of(served) as one, endpoint_of(served) as same:
            assert one.digest == same.digest
        served.behaviour.fingerprint = "fp_2"
        with endpoint_of(served) as other:
            assert other.digest != one.digest
        assert (one.dtype, one.n_parameters) == ("unknown", None)


def test_a_busy_server_is_asked_again_and_keeps_to_the_rate_limit(gpt2):
    taken = []
    bucket = TokenBucket(None)
    bucket.take = lambda: taken.append(1)
    failures = [(429, QUICK, b"{}"), (503, QUICK, b"oh"), (500, QUICK, b"{}")]
    with (
        serving(gpt2, Behaviour(failures=failures)) as served,
        endpoint_of(served, bucket=bucket) as endpoint,
    ):
        assert_same_scores(endpoint.score(STATEMENTS), scoring.score(gpt2, STATEMENTS))
    assert len(taken) == len(served.requests) == 4 + len(STATEMENTS) - 1


@pytest.mark.parametrize(
    ("status", "headers", "n_tries", "words"),
    [
        (500, QUICK, 3, "fails, after 3 tries.*HTTP 500"),
        (429, QUICK, 3, "takes no more requests, after 3 tries.*HTTP 429"),
        (429, {"Retry-After": "7200"}, 1, "HTTP 429"),
        (403, {}, 1, "ask its provider for access"),
        (418, {}, 1, "does not take the request.*HTTP 418"),
    ],
)
def test_a_server_that_goes_on_failing_is_given_up(gpt2, status, headers, n_tries, words):
    behaviour = Behaviour(always=(status, headers, b'{"error": {"message": "Ada Quill"}}'))
    with serving(gpt2, behaviour) as served, endpoint_of(served, max_retries=2) as endpoint:
        with pytest.raises(EndpointError, match=words) as caught:
            endpoint.generate(["Ada Quill"], max_new_tokens=3)
        assert len(served.requests) == n_tries
    assert "Ada Quill" not in str(caught.value)
    assert caught.value.status == status


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b'{"choices": [', "application/json"),
        (b"<html>hello</html>", "text/html"),
        (b"\xff\xfe", "application/json"),
        (b'{"object": "list", "data": []}', "application/json"),
        (b'{"choices": "Ada Quill"}', "application/json"),
    ],
)
def test_a_reply_that_does_not_read_is_said_to_be_one(gpt2, content, kind):
    behaviour = Behaviour(always=(200, {"Content-Type": kind}, content))
    with (
        serving(gpt2, behaviour) as served,
        endpoint_of(served) as endpoint,
        pytest.raises(EndpointError, match="not OpenAI's format") as caught,
    ):
        _ = endpoint.access
    assert "Ada Quill" not in str(caught.value)


def test_log_probabilities_that_go_missing_later_are_an_error(gpt2):
    with serving(gpt2) as served, endpoint_of(served) as endpoint:
        assert "logprobs" in endpoint.access
        served.behaviour.echoes = False
        with pytest.raises(EndpointError, match="no log-probabilities"):
            endpoint.score(STATEMENTS)


def test_a_wrong_key_is_named_and_never_shown(gpt2):
    with serving(gpt2, Behaviour(key="right")) as served:
        with endpoint_of(served, api_key="wr0ng") as endpoint:
            with pytest.raises(EndpointError, match=r"UNLEARN_API_KEY.*401") as caught:
                _ = endpoint.access
            assert "wr0ng" not in str(caught.value)
        with endpoint_of(served, api_key="right") as endpoint:
            assert endpoint.access == {"text", "logprobs"}


def test_the_key_comes_from_the_environment_and_openai_s_goes_nowhere_else(gpt2, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    monkeypatch.delenv("UNLEARN_API_KEY", raising=False)
    with serving(gpt2) as served:
        for expected in ("none", "mine"):
            with endpoint_of(served) as endpoint:
                _ = endpoint.access
            assert served.keys[-1] == f"Bearer {expected}"
            monkeypatch.setenv("UNLEARN_API_KEY", "mine")


def test_a_model_the_server_does_not_know_is_named(gpt2):
    with (
        serving(gpt2) as served,
        Endpoint(served.url, "huge", requests_per_minute=None) as endpoint,
        pytest.raises(EndpointError, match=r"'huge'.*knows no such model.*404"),
    ):
        _ = endpoint.access


def test_a_server_that_is_not_there_is_said_to_be_unreachable(gpt2):
    with serving(gpt2) as served:
        gone = endpoint_of(served, max_retries=0)
    with gone, pytest.raises(EndpointError, match="cannot be reached"):
        _ = gone.access


def test_a_server_that_takes_too_long_is_given_up(gpt2):
    with (
        serving(gpt2) as served,
        served.model_lock,
        endpoint_of(served, timeout=0.05, max_retries=0) as endpoint,
        pytest.raises(EndpointError, match=r"did not answer within 0\.05 s"),
    ):
        _ = endpoint.access


def test_a_text_beyond_the_context_is_named_and_not_shown(gpt2):
    long = Statement(prompt="Ben Ostrow", answer="x" * 90)
    with serving(gpt2) as served, endpoint_of(served) as endpoint:
        _ = endpoint.access
        message = b'{"error": {"message": "maximum context length is 64; got Ben Ostrow"}}'
        served.behaviour.failures = [(400, {}, message)]
        with pytest.raises(TextError, match=r"statement 0.*context") as caught:
            endpoint.score([long])
        assert caught.value.digest == TextError.digest_of(long.prompt, long.completion)
        with pytest.raises(TextError, match=r"prompt 1.*context") as asked:
            endpoint.generate(["Ben", long.text], max_new_tokens=9)
    assert "Ostrow" not in f"{caught.value} {asked.value}"


def test_a_completion_without_tokens_before_it_is_refused(gpt2):
    whole = Statement(prompt="A", answer="da", separator="")
    with serving(gpt2) as served, endpoint_of(served) as endpoint:
        ids = gpt2.encode(whole.prompt, whole.completion)
        assert ids.start == 0, "the tokenizer has to take both for one token"
        with pytest.raises(InputError, match="no token stands in front"):
            endpoint.score([whole])


def test_user_name_password_and_query_of_a_url_are_sent_and_never_shown(gpt2):
    with serving(gpt2) as served:
        url = served.url.replace("//", "//ada:hush@") + "/?version=2&token=s3cret"
        with Endpoint(url, "tiny", requests_per_minute=None) as endpoint:
            assert endpoint.source == f"{served.url} tiny"
            _ = endpoint.access
        assert served.requests[0][0].endswith("?version=2&token=s3cret")
        assert served.keys[0].startswith("Basic ")
        served.behaviour.always = (418, {}, b"{}")
        with (
            Endpoint(url, "tiny", requests_per_minute=None) as endpoint,
            pytest.raises(EndpointError) as caught,
        ):
            _ = endpoint.access
        assert not any(word in str(caught.value) for word in ("hush", "s3cret"))


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://a:hush@b", "http://", "http://b:x", ""])
def test_what_is_no_url_of_a_server_is_refused_without_showing_it(url):
    with pytest.raises(ConfigError, match="not an http") as caught:
        Endpoint(url, "tiny")
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    "setting",
    [
        {"max_concurrency": 0},
        {"max_retries": -1},
        {"timeout": 0},
        {"timeout": math.nan},
        {"requests_per_minute": 0},
        {"api_key": "a\nb"},
        {"api_key": "schlüssel"},
    ],
)
def test_a_setting_out_of_range_is_refused(setting):
    with pytest.raises(ConfigError):
        Endpoint("http://localhost/v1", "tiny", **setting)


def test_sampling_settings_out_of_range_are_refused_before_anything_is_sent(gpt2):
    with serving(gpt2) as served, endpoint_of(served) as endpoint:
        with pytest.raises(ConfigError, match="top_p"):
            endpoint.generate(["Ben"], max_new_tokens=3, top_p=0)
        assert served.requests == []


def test_the_cost_is_told_without_a_request():
    endpoint = Endpoint(
        "http://localhost/v1", "tiny", requests_per_minute=30, prices=Prices(10.0, 20.0)
    )
    with endpoint:
        assert endpoint.estimate(31, 4_000_000, 1_000_000) == (31, 1_000_000, 1_000_000, 60.0, 30.0)


def test_without_the_library_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "openai", None)
    with pytest.raises(UnsupportedError, match=r"pip install 'unlearn-toolkit\[endpoint\]'"):
        Endpoint("http://localhost/v1", "tiny")
