"""One address that speaks OpenAI's protocol: requests out, replies in, errors explained.

The client library repeats a request after a status of 408, 409, 429 or 5xx, a timeout or a lost
connection: after the time ``Retry-After`` asks for, else after 0.5 s, then twice as long each time
up to 8 s, a random 0 to 25 % less. Where ``Retry-After`` asks for more than two minutes it gives up
at once. It does not pace its repetitions, so the rate limit is kept below it, at each request sent.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from pydantic import BaseModel, ValidationError

from unlearn.errors import ConfigError, EndpointError, UnsupportedError

NO_KEY = "none"
"""What is sent where there is no key: local servers want none, and the library insists on one."""

Reply = TypeVar("Reply", bound=BaseModel)

TOO_LONG = re.compile(r"context.?(length|window|size)|maximum context|max_model_len|too long", re.I)


class Usage(BaseModel):
    """Tokens, as the server counts them."""

    completion_tokens: int = 1


class Choice(BaseModel):
    """One text of a reply."""

    index: int = 0
    text: str = ""
    logprobs: Any = None
    """Read by ``Logprobs``, because servers that have none put all sorts of things here."""


class Completion(BaseModel):
    """A reply of ``/completions``."""

    choices: list[Choice]
    usage: Usage | None = None
    system_fingerprint: str | None = None


class Message(BaseModel):
    """What a chat model said."""

    content: str | None = None


class ChatChoice(BaseModel):
    """One message of a reply."""

    index: int = 0
    message: Message


class Chat(BaseModel):
    """A reply of ``/chat/completions``."""

    choices: list[ChatChoice]
    system_fingerprint: str | None = None


class Address(NamedTuple):
    """A URL in the parts that are used apart."""

    base: str
    """With user name and password, without the query."""
    query: dict[str, str]
    public: str
    """Without credentials, query and fragment: what may be shown."""


class TooLongError(EndpointError):
    """The text does not fit into the model's context."""


class Pace(NamedTuple):
    """How requests go out."""

    before_each: Callable[[], object]
    """Called before each request, repetitions included."""
    timeout: float
    max_retries: int


def read_address(url: str) -> Address:
    """The parts of a URL.

    Raises:
        ConfigError: it is no http or https URL with a host. The message does not repeat it, since
            it may hold a password.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urlsplit("")
    if parts.scheme not in ("http", "https") or not host:
        raise ConfigError(
            "the endpoint is not an http:// or https:// URL with a host; "
            "give one such as http://localhost:8000/v1"
        )
    shown = f"[{host}]" if ":" in host else host
    place = shown if port is None else f"{shown}:{port}"
    path = parts.path.rstrip("/")
    return Address(
        urlunsplit((parts.scheme, parts.netloc, path, "", "")),
        dict(parse_qsl(parts.query)),
        urlunsplit((parts.scheme, place, path, "", "")),
    )


def find_key(given: str | None, address: Address) -> str:
    """The key to send: the one given, or the environment's.

    ``UNLEARN_API_KEY`` goes wherever the audit goes. ``OPENAI_API_KEY`` goes to OpenAI alone: most
    who have it set did not set it for the server under audit.

    Raises:
        ConfigError: it holds what no key can hold.
    """
    key = given or os.environ.get("UNLEARN_API_KEY")
    host = urlsplit(address.public).hostname or ""
    if not key and (host == "openai.com" or host.endswith(".openai.com")):
        key = os.environ.get("OPENAI_API_KEY")
    key = (key or NO_KEY).strip()
    if not (key.isascii() and key.isprintable()):
        raise ConfigError("the API key holds characters that no key can hold; copy it again")
    return key


class Api:
    """Sends requests for one model to one address. Threads may share it."""

    def __init__(self, address: Address, model: str, key: str, pace: Pace) -> None:
        try:
            import openai
        except ImportError:
            raise UnsupportedError(
                "auditing a model behind a URL needs the openai library; "
                "pip install 'unlearn-toolkit[endpoint]'"
            ) from None
        self.model, self.where = model, f"{address.public} (model {model!r})"
        self._pace, self._errors, self._timeout = pace, openai.APIError, openai.APITimeoutError
        paced = openai.DefaultHttpxClient(
            event_hooks={"request": [lambda request: pace.before_each()]}
        )
        self._client = openai.OpenAI(
            api_key=key,
            base_url=address.base,
            default_query=address.query,
            timeout=pace.timeout,
            max_retries=pace.max_retries,
            http_client=paced,
        )

    def close(self) -> None:
        """Closes the connections; the next request would be an error."""
        self._client.close()

    def complete(self, prompt: str, **options: Any) -> Completion:
        """A reply of ``/completions``.

        Raises:
            EndpointError: there is none, or it does not read.
        """
        create: Any = self._client.completions.with_raw_response.create
        return self._ask(Completion, create, prompt=prompt, **options)

    def chat(self, prompt: str, **options: Any) -> Chat:
        """A reply of ``/chat/completions`` to the prompt as a user's only message.

        Raises:
            EndpointError: there is none, or it does not read.
        """
        create: Any = self._client.chat.completions.with_raw_response.create
        messages = [{"role": "user", "content": prompt}]
        return self._ask(Chat, create, messages=messages, **options)

    def _ask(self, kind: type[Reply], create: Any, **body: Any) -> Reply:
        try:
            raw = create(model=self.model, **body)
        except self._errors as error:
            # Without its cause: a server's message may repeat the prompt.
            raise self._explained(error) from None
        try:
            return kind.model_validate_json(raw.content)
        except ValidationError as error:
            detail = error.errors(include_url=False, include_input=False, include_context=False)[0]
            field = ".".join(map(str, detail["loc"])) or "the whole reply"
            raise EndpointError(
                f"{self.where} sent a reply that is not OpenAI's format: {field} is wrong "
                f"({detail['type']}); check that the URL is that of an OpenAI-compatible API"
            ) from None

    def _explained(self, error: Any) -> EndpointError:
        status: int | None = getattr(error, "status_code", None)
        if status is None:
            return EndpointError(f"{self.where} {self._silence(error)}")
        if status in (400, 413, 422) and TOO_LONG.search(str(error)):
            return TooLongError("longer than the model's context", status)
        tries = self._pace.max_retries + 1
        reasons = {
            401: "refuses the key; give the right one in UNLEARN_API_KEY",
            403: "refuses the key for this model; ask its provider for access",
            404: "knows no such model, or has no such route; check the name, and that the URL "
            "ends as the server wants it, often in /v1",
            429: f"takes no more requests, after {tries} tries; lower requests_per_minute, or "
            "see whether the account has credit left",
        }
        broken = f"fails, after {tries} tries; look at the server's log" if status >= 500 else None
        reason = reasons.get(status) or broken or f"does not take the request{_code(error)}"
        return EndpointError(f"{self.where} {reason} (HTTP {status})", status)

    def _silence(self, error: Any) -> str:
        """Why there is no status."""
        tries = self._pace.max_retries + 1
        if isinstance(error, self._timeout):
            return f"did not answer within {self._pace.timeout:g} s, {tries} times; raise timeout"
        cause = type(error.__cause__ or error).__name__
        return f"cannot be reached ({cause}); check the URL, and that the server runs"


def _code(error: Any) -> str:
    """The server's own word for the error, if it is one word and so can be no text of a record."""
    code = str(getattr(error, "code", None) or getattr(error, "type", None) or "")
    return f": {code}" if re.fullmatch(r"[\w.-]{1,60}", code) else ""
