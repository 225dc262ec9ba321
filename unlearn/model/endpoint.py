"""Endpoint: a model behind an OpenAI-compatible URL, that gives text and perhaps likelihoods."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from types import TracebackType
from typing import Any, Literal, NamedTuple, TypeVar

from unlearn.errors import ConfigError, EndpointError, InputError, TextError, UnsupportedError
from unlearn.model.echo import completion_scores, echoed, read_logprobs
from unlearn.model.generation import Decoding, check, cut
from unlearn.model.openai_api import Api, Completion, Pace, TooLongError, find_key, read_address
from unlearn.model.rate_limit import Cost, Prices, TokenBucket, estimate_cost
from unlearn.model.scoring import Progress, TokenScores
from unlearn.types import Statement

REFUSED = (400, 422)
"""Statuses that say that a request of this shape is not taken."""

ABSENT = (404, 405, 501)
"""Statuses that say that there is no such route, or no such model."""

PROBE = ("One, two", ", three")
"""What is sent to find out what the server gives: a prompt and its completion."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class Abilities(NamedTuple):
    """What a server was found to give."""

    access: frozenset[Literal["text", "logprobs"]]
    route: Literal["completions", "chat"]
    limit: str
    """How the route calls the most tokens to write."""
    least_tokens: int
    """The fewest tokens it lets itself be asked to write."""
    fingerprint: str
    """What it says of its own version; empty where it says nothing."""


class Endpoint:
    """A model under audit that only answers requests.

    >>> with Endpoint("http://localhost:8000/v1", "quill-7b") as endpoint:  # doctest: +SKIP
    ...     endpoint.access
    frozenset({'logprobs', 'text'})

    Nothing is sent before the first question. Likelihoods need ``/completions`` with ``echo`` and
    ``logprobs`` (vLLM has them; OpenAI's own service no longer echoes). A server with
    ``/chat/completions`` alone gives text only, and the chat template stands around each prompt, so
    its texts are not comparable with those of a model that continues the bare prompt.
    """

    dtype = "unknown"
    n_parameters = None

    def __init__(
        self,
        url: str,
        model: str,
        *,
        api_key: str | None = None,
        requests_per_minute: float | None = 600,
        max_concurrency: int = 4,
        timeout: float = 60,
        max_retries: int = 5,
        prices: Prices | None = None,
        bucket: TokenBucket | None = None,
    ) -> None:
        """See the class.

        Args:
            url: where the API begins, often ending in ``/v1``.
            model: what the server calls the model.
            api_key: else that of the environment; see ``find_key``.
            requests_per_minute: the most that are sent, repetitions counted; ``None``: no limit.
            max_concurrency: how many requests may be under way at once.
            timeout: seconds to wait for a reply.
            max_retries: how often a request is repeated; see ``unlearn.model.openai_api``.
            prices: for ``estimate``.
            bucket: in the place of ``requests_per_minute``, for example shared with others.
        """
        for name, value, least in (
            ("max_concurrency", max_concurrency, 1),
            ("max_retries", max_retries, 0),
        ):
            if value < least:
                raise ConfigError(f"{name} is {value}, but must be at least {least}")
        if not timeout > 0:
            raise ConfigError(f"timeout is {timeout}, but must be above 0")
        address = read_address(url)
        self.source = f"{address.public} {model}"
        self.model = model
        self.max_concurrency = max_concurrency
        self._rate, self._prices = requests_per_minute, prices
        pace = Pace((bucket or TokenBucket(requests_per_minute)).take, timeout, max_retries)
        self._api = Api(address, model, find_key(api_key, address), pace)
        self._per_request: int | None = None
        """The most texts a request may ask for, once the server has shown that there is a most."""

    def __enter__(self) -> Endpoint:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._api.close()

    @cached_property
    def abilities(self) -> Abilities:
        """What the server gives, found by one small request, or a few where it refuses some.

        Raises:
            EndpointError: it does not answer, refuses the key, or does not know the model.
        """
        return find_abilities(self._api)

    @property
    def access(self) -> frozenset[Literal["text", "logprobs"]]:
        """``text``, and ``logprobs`` where the server gives those of a text that is sent to it."""
        return self.abilities.access

    @cached_property
    def digest(self) -> str:
        """SHA-256 over URL, model and the fingerprint that the server reports of itself.

        It names the address and not the weights: whoever runs the server can put another model
        there, and the digest need not change.
        """
        told = json.dumps([self.source, self.model, self.abilities.fingerprint])
        return hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest()

    def estimate(self, n_requests: int, prompt_characters: int, new_tokens: int) -> Cost:
        """What requests would cost, before any is sent; see ``estimate_cost``."""
        return estimate_cost(n_requests, prompt_characters, new_tokens, self._rate, self._prices)

    def score(
        self, statements: Sequence[Statement], progress: Progress | None = None
    ) -> list[TokenScores]:
        """What the model gives to each statement's completion, in the order of the statements.

        As ``unlearn.model.scoring.score``, with what ``completion_scores`` says of ids and NaN. A
        text that occurs twice is asked for once.

        Raises:
            UnsupportedError: the server gives no log-probabilities.
            InputError: a completion without tokens of its own, or a text longer than the context.
            EndpointError: the server does not answer as it should.
        """
        if "logprobs" not in self.access:
            raise UnsupportedError(
                f"{self.source} gives text only: log-probabilities of a text that is sent need "
                "/completions with echo and logprobs; run probes that read text"
            )
        first: dict[tuple[str, str], int] = {}
        for index, statement in enumerate(statements):
            first.setdefault((statement.prompt, statement.completion), index)
        found = self._all(self._score, list(first.items()), "score", progress)
        scores = dict(zip(first, found, strict=True))
        return [scores[statement.prompt, statement.completion] for statement in statements]

    def generate(
        self,
        prompts: Sequence[str],
        *,
        max_new_tokens: int,
        n_samples: int = 1,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        stop: str | None = None,
        progress: Progress | None = None,
    ) -> list[list[str]]:
        """For each prompt ``n_samples`` continuations, without the prompt.

        As ``unlearn.model.generation.generate``: equal prompts get equal texts, and at temperature
        0 all samples are one. Seeds are sent along, and many servers ignore them.

        Raises:
            ConfigError: a setting out of range.
            InputError: a prompt that leaves no room in the context.
            EndpointError: the server does not answer as it should.
        """
        decoding = Decoding(max_new_tokens, temperature, top_p, stop)
        check(decoding, n_samples, 1, seed)
        n_drawn = n_samples if temperature > 0 else 1

        def write(job: tuple[str, int]) -> list[str]:
            return self._write(job, n_drawn, decoding, seed)

        first = {prompt: index for index, prompt in reversed(list(enumerate(prompts)))}
        found = self._all(write, list(first.items()), "generate", progress)
        texts = dict(zip(first, found, strict=True))
        return [[texts[prompt][i % n_drawn] for i in range(n_samples)] for prompt in prompts]

    def _all(
        self,
        work: Callable[[Item], Result],
        items: Sequence[Item],
        what: str,
        progress: Progress | None,
    ) -> list[Result]:
        """``work`` on all items, in their order; after an error nothing new is begun."""
        if not items:
            return []
        _ = self.abilities
        found: list[Result] = []
        pool = ThreadPoolExecutor(self.max_concurrency)
        try:
            for result in pool.map(work, items):
                found.append(result)
                if progress is not None:
                    progress(what, len(found) / len(items))
        finally:
            pool.shutdown(cancel_futures=True)
        return found

    def _score(self, job: tuple[tuple[str, str], int]) -> TokenScores:
        (prompt, completion), index = job
        name, where, least = f"statement {index}", self._api.where, self.abilities.least_tokens
        try:
            reply = self._api.complete(prompt + completion, **_echo(least))
        except TooLongError as error:
            digest = TextError.digest_of(prompt, completion)
            raise TextError(f"the text is {error}; shorten it", digest, name) from None
        return _scored(reply, prompt, completion, least, name, where)

    def _write(
        self, job: tuple[str, int], n_drawn: int, decoding: Decoding, seed: int
    ) -> list[str]:
        prompt, index = job
        texts: list[str] = []
        while len(texts) < n_drawn:
            asked = min(n_drawn - len(texts), self._per_request or n_drawn)
            options = self._options(decoding, asked, _seed(seed, prompt, len(texts)))
            try:
                given = list(self._texts(prompt, options))[:asked]
            except TooLongError as error:
                digest = TextError.digest_of(prompt, "")
                reason = f"the prompt with {decoding.max_new_tokens} new tokens is {error}"
                raise TextError(f"{reason}; shorten it", digest, f"prompt {index}") from None
            except EndpointError as error:
                if asked == 1 or error.status not in REFUSED:
                    raise
                self._per_request = 1
                continue
            if not given:
                raise EndpointError(f"{self._api.where} sent no text for prompt {index}")
            if len(given) < asked:
                self._per_request = len(given)
            texts += [cut(text, decoding.stop) for text in given]
        return texts

    def _options(self, decoding: Decoding, n: int, seed: int) -> dict[str, Any]:
        options: dict[str, Any] = {
            self.abilities.limit: decoding.max_new_tokens,
            "temperature": decoding.temperature,
            "top_p": decoding.top_p,
            "seed": seed,
        }
        if n > 1:
            options["n"] = n
        if decoding.stop is not None:
            options["stop"] = [decoding.stop]
        return options

    def _texts(self, prompt: str, options: dict[str, Any]) -> Iterator[str]:
        if self.abilities.route == "completions":
            for choice in sorted(self._api.complete(prompt, **options).choices, key=_index):
                yield choice.text
        else:
            for said in sorted(self._api.chat(prompt, **options).choices, key=_index):
                yield said.message.content or ""


class NoEchoError(EndpointError):
    """A reply that reads, but brings no likelihoods of the text that was sent."""


def find_abilities(api: Api) -> Abilities:
    """What the server gives: likelihoods if it echoes them, else completions, else chat.

    Raises:
        EndpointError: it gives none of them.
    """
    text = "".join(PROBE)
    # Some servers take a request for no new token as an error, some as one for many.
    for least in (0, 1):
        try:
            reply = api.complete(text, **_echo(least))
            _scored(reply, *PROBE, least, "the probe", api.where)
        except (InputError, NoEchoError):
            continue
        except EndpointError as error:
            if error.status in ABSENT:
                return _chat_abilities(api, error)
            if error.status not in REFUSED:
                raise
        else:
            return _completions(("text", "logprobs"), least, reply)
    try:
        reply = api.complete(text, max_tokens=1)
    except EndpointError as error:
        if error.status not in (*REFUSED, *ABSENT):
            raise
        return _chat_abilities(api, error)
    return _completions(("text",), 1, reply)


def _completions(
    access: tuple[Literal["text", "logprobs"], ...], least_tokens: int, reply: Completion
) -> Abilities:
    fingerprint = reply.system_fingerprint or ""
    return Abilities(frozenset(access), "completions", "max_tokens", least_tokens, fingerprint)


def _chat_abilities(api: Api, first: EndpointError) -> Abilities:
    """What a server without completions gives; ``first`` is raised where it has no chat either."""
    for limit in ("max_tokens", "max_completion_tokens"):
        try:
            reply = api.chat("".join(PROBE), **{limit: 16})
        except EndpointError as error:
            if error.status in ABSENT:
                raise first from None
            # Newer models take the limit under its newer name only.
            if error.status not in REFUSED or limit != "max_tokens":
                raise
        else:
            fingerprint = reply.system_fingerprint or ""
            return Abilities(frozenset({"text"}), "chat", limit, 1, fingerprint)
    raise first


def _echo(least_tokens: int) -> dict[str, Any]:
    return {"echo": True, "logprobs": 1, "max_tokens": least_tokens, "temperature": 0}


def _scored(
    reply: Completion, prompt: str, completion: str, least_tokens: int, name: str, where: str
) -> TokenScores:
    """The scores of a completion, out of the reply that echoes it."""
    if not reply.choices:
        raise NoEchoError(f"{where} sent no text")
    # What had to be written stands behind what was sent.
    written = reply.usage.completion_tokens if reply.usage else 1
    try:
        found = read_logprobs(reply.choices[0].logprobs, where)
        tokens = echoed(found, prompt + completion, min(least_tokens, written), where)
        return completion_scores(tokens, prompt, completion, name, where)
    except EndpointError as error:
        raise NoEchoError(str(error)) from None


def _index(choice: Any) -> int:
    return int(choice.index)


def _seed(seed: int, prompt: str, sample: int) -> int:
    """The seed of a request, from what makes its texts different from those of others."""
    told = f"{seed} {sample} {prompt}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(told).digest()[:4], "big") >> 1
