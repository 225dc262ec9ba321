"""A server on this machine that offers a small model as OpenAI's API does, or fails as one can."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch

from unlearn.errors import InputError
from unlearn.model.encoding import tokenise
from unlearn.model.generation import generate
from unlearn.model.language_model import LanguageModel


@dataclass
class Behaviour:
    """How a server differs from one that offers everything."""

    echoes: bool = True
    chat_only: bool = False
    refuses_no_tokens: bool = False
    """Takes ``max_tokens=0`` for an error, as some servers do."""
    counts_special: bool = False
    """Gives the special token in front a width, so that all offsets are shifted."""
    wrong_offsets: bool = False
    refuses_n: bool = False
    ignores_n: bool = False
    new_limit_name: bool = False
    """Takes ``max_completion_tokens`` and refuses ``max_tokens``."""
    reports_usage: bool = True
    pause: float = 0
    """Seconds before each answer."""
    key: str | None = None
    fingerprint: str | None = "fp_1"
    failures: list[tuple[int, dict[str, str], bytes]] = field(default_factory=list)
    """Answers that are given first, one to each request."""
    always: tuple[int, dict[str, str], bytes] | None = None
    """An answer that is given to every request."""


class Served:
    """What a test sees of a running server."""

    def __init__(self, lm: LanguageModel, behaviour: Behaviour) -> None:
        self.lm, self.behaviour = lm, behaviour
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.keys: list[str | None] = []
        self.most_at_once = 0
        self.lock = threading.Lock()
        self.model_lock = threading.Lock()
        self.at_once = 0
        self.url = ""


class Refusal(Exception):  # noqa: N818
    """An answer that is an error."""

    def __init__(self, status: int, code: str, message: str = "no") -> None:
        self.status, self.code, self.message = status, code, message


def echo_logprobs(lm: LanguageModel, text: str, behaviour: Behaviour) -> dict[str, Any]:
    """The tokens of a text, by one plain pass in double precision."""
    ((ids, spans, n_added),) = tokenise(lm.tokenizer, [text])
    with torch.no_grad():
        logits = lm.model(input_ids=torch.tensor([ids]).to(lm.device), use_cache=False).logits[0]
    log_p = torch.log_softmax(logits.double(), -1)
    front = lm.tokenizer.decode(ids[:n_added]) if behaviour.counts_special else ""
    tokens, offsets = [front] * n_added, [0] * n_added
    for token_id, (begin, end) in list(zip(ids, spans, strict=True))[n_added:]:
        piece = lm.tokenizer.decode([token_id])
        tokens.append(piece if "�" in piece else text[begin:end])
        offsets.append(begin + len(front))
    if behaviour.wrong_offsets:
        offsets = [offset + 2 * at for at, offset in enumerate(offsets)]
    picked = [None] + [float(log_p[i - 1, ids[i]]) for i in range(1, len(ids))]
    tops: list[dict[str, float] | None] = [None]
    for at in range(1, len(ids)):
        best = int(log_p[at - 1].argmax())
        top = {tokens[at]: picked[at]}
        tops.append(top | {lm.tokenizer.decode([best]): float(log_p[at - 1, best])})
    return {
        "tokens": tokens,
        "token_logprobs": picked,
        "top_logprobs": tops,
        "text_offset": offsets,
    }


def write(served: Served, prompt: str, body: dict[str, Any], limit: int) -> list[str]:
    n = body.get("n", 1)
    if n > 1 and served.behaviour.refuses_n:
        raise Refusal(400, "unsupported_value")
    stop = body.get("stop")
    (texts,) = generate(
        served.lm,
        [prompt],
        max_new_tokens=limit,
        n_samples=1 if served.behaviour.ignores_n else n,
        temperature=body.get("temperature", 1.0),
        top_p=body.get("top_p", 1.0),
        seed=body.get("seed", 0),
        stop=stop[0] if stop else None,
    )
    return texts


def complete(served: Served, body: dict[str, Any]) -> dict[str, Any]:
    behaviour, lm = served.behaviour, served.lm
    prompt, limit = body["prompt"], body.get("max_tokens", 16)
    if limit == 0 and behaviour.refuses_no_tokens:
        raise Refusal(400, "invalid_value", "max_tokens must be at least 1")
    texts = [""] * body.get("n", 1) if limit == 0 else write(served, prompt, body, limit)
    wants_echo = bool(body.get("echo")) and behaviour.echoes
    choices = []
    for index, text in enumerate(texts):
        whole = prompt + text if wants_echo else text
        choice = {"index": index, "text": whole, "finish_reason": "length", "logprobs": None}
        if wants_echo and body.get("logprobs"):
            choice["logprobs"] = echo_logprobs(lm, prompt, behaviour)
            if text:
                # The one new token, which stands behind the prompt's.
                for key, value in (
                    ("tokens", text),
                    ("token_logprobs", -1.0),
                    ("top_logprobs", {text: -1.0}),
                    ("text_offset", choice["logprobs"]["text_offset"][-1] + 1),
                ):
                    choice["logprobs"][key].append(value)
        choices.append(choice)
    reply = {"object": "text_completion", "model": body["model"], "choices": choices[::-1]}
    if behaviour.reports_usage:
        reply["usage"] = {"completion_tokens": sum(bool(text) for text in texts)}
    return reply


def chat(served: Served, body: dict[str, Any]) -> dict[str, Any]:
    if served.behaviour.new_limit_name and "max_tokens" in body:
        raise Refusal(400, "unsupported_parameter")
    limit = body.get("max_completion_tokens", body.get("max_tokens", 16))
    texts = write(served, body["messages"][0]["content"], body, limit)
    return {
        "object": "chat.completion",
        "choices": [
            {"index": index, "message": {"role": "assistant", "content": text}}
            for index, text in enumerate(texts)
        ],
    }


def answer(served: Served, path: str, key: str | None, body: dict[str, Any]) -> dict[str, Any]:
    behaviour = served.behaviour
    if behaviour.key is not None and key != f"Bearer {behaviour.key}":
        raise Refusal(401, "invalid_api_key")
    if body["model"] != "tiny":
        raise Refusal(404, "model_not_found")
    routes = {"/v1/chat/completions": chat}
    if not behaviour.chat_only:
        routes["/v1/completions"] = complete
    if path not in routes:
        raise Refusal(404, "not_found")
    try:
        with served.model_lock:
            reply = routes[path](served, body)
    except InputError:
        message = f"This model's maximum context length is 9 tokens, but got {body['prompt']}"
        raise Refusal(400, "context_length_exceeded", message) from None
    return reply | {"system_fingerprint": behaviour.fingerprint}


def handler(served: Served) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with served.lock:
                served.requests.append((self.path, body))
                served.keys.append(self.headers.get("Authorization"))
                served.at_once += 1
                served.most_at_once = max(served.most_at_once, served.at_once)
                failure = served.behaviour.failures.pop(0) if served.behaviour.failures else None
                failure = served.behaviour.always or failure
            time.sleep(served.behaviour.pause)
            try:
                self.reply(*(failure or self.answer(body)))
            finally:
                with served.lock:
                    served.at_once -= 1

        def answer(self, body: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
            key = self.headers.get("Authorization")
            try:
                reply = answer(served, self.path.partition("?")[0], key, body)
                return 200, {}, json.dumps(reply).encode()
            except Refusal as refusal:
                error = {"code": refusal.code, "message": refusal.message}
                return refusal.status, {}, json.dumps({"error": error}).encode()

        def reply(self, status: int, headers: dict[str, str], content: bytes) -> None:
            self.send_response(status)
            for name, value in ({"Content-Type": "application/json"} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

    return Handler


@contextmanager
def serving(lm: LanguageModel, behaviour: Behaviour | None = None) -> Iterator[Served]:
    """The model as ``tiny`` at ``served.url``, until the block ends; needs ``allow_hosts``."""
    served = Served(lm, behaviour or Behaviour())
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(served))
    served.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
