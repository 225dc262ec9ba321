"""What ``unlearn request`` prints of requests and ledgers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from unlearn.cli.console import emit
from unlearn.cli.options import Options

if TYPE_CHECKING:
    from unlearn.deletion.ledger import Flaw, Head
    from unlearn.deletion.registry import RegisteredModel
    from unlearn.deletion.request import DeletionRequest
    from unlearn.deletion.store import Store


def document_of(request: DeletionRequest) -> dict[str, Any]:
    """A request as ``--json`` prints it."""
    from unlearn.deletion.states import OPEN

    document: dict[str, Any] = json.loads(request.model_dump_json())
    due = request.due()
    left = (due - request.today()).days if request.state in OPEN else None
    return {**document, "due": str(due), "days_left": left}


def print_request(options: Options, request: DeletionRequest) -> None:
    """Prints a request in one line, or as JSON."""
    emit(options, document_of(request), line_of(request))


def line_of(request: DeletionRequest) -> str:
    """A request in one line."""
    document = document_of(request)
    left = document["days_left"]
    when = "" if left is None else f"({_days(left)})"
    waiting = "waits for identity" if request.identity == "asked" else ""
    parts = (f"{request.id}  {request.state:<17}  due {document['due']} {when:<16}",)
    facts = f"{request.records} facts" if request.records else "no facts yet"
    return "  ".join(part for part in (*parts, facts, request.verdict, waiting) if part).rstrip()


def _days(left: int) -> str:
    if left < 0:
        return f"{-left} d overdue"
    return "today" if left == 0 else f"{left} d left"


def show_document(store: Store, request: str) -> dict[str, Any]:
    """Everything that is known of a request outside the vault."""
    found = store.get(request)
    with store.registry.look() as view:
        history = [json.loads(line) for line in view.ledger(request)]
        derived = {scoped.digest: view.derived(scoped.digest) for scoped in found.models}
    evidence = store.evidence(request)
    answered = {entry["details"].get("base") for entry in history}
    return {
        **document_of(found),
        "history": history,
        "evidence": sorted(str(path) for path in evidence.glob("*/audit.html")),
        "scope": [
            {
                "source": scoped.source,
                "digest": scoped.digest,
                "answered": scoped.digest in answered,
                "derived": [
                    {**model.model_dump(), "scope": _scope_of(model, found)}
                    for model in derived[scoped.digest]
                ],
            }
            for scoped in found.models
        ],
    }


def _scope_of(model: RegisteredModel, request: DeletionRequest) -> str:
    """Whether a request is about a model that was made from one in its scope."""
    if model.digest in {scoped.digest for scoped in request.models}:
        return "in scope"
    if model.relation in ("unlearned", "filtered"):
        return "made by processing"
    return "out of scope"


def show_text(document: dict[str, Any]) -> str:
    """The same in lines."""
    left = document["days_left"]
    due = document["due"] + ("" if left is None else f" ({_days(left)})")
    rows = [
        ("request", document["id"]),
        ("state", document["state"]),
        ("received", f"{document['received']} ({document['zone']})"),
        ("due", f"{due}, {document['rules']['law']}"),
        ("ground", document["ground"]),
        ("identity", document["identity"]),
        ("facts", document["records"]),
        ("verdict", document["verdict"] or "none yet"),
        ("model out", document["model_out"] or "none yet"),
    ]
    lines = [f"{name:<10}{value}" for name, value in rows]
    lines += ["", "models in scope"]
    for scoped in document["scope"]:
        state = "answered" if scoped["answered"] else "not answered yet"
        lines.append(f"  {scoped['source']}  {scoped['digest'][:12]}  {state}")
        lines += [
            f"    {made['relation']}: {made['source']}  {made['digest'][:12]}  {made['scope']}"
            for made in scoped["derived"]
        ]
    lines += ["", "evidence", *(f"  {path}" for path in document["evidence"])]
    lines += ["", "history", *(f"  {_entry(entry)}" for entry in document["history"])]
    return "\n".join(map(inert, lines))


def inert(line: str) -> str:
    """A line without the characters that a terminal would obey or reorder."""
    from unlearn.report.wording import visible

    return visible(line).replace("\n", "⟨U+000A⟩")


def _entry(entry: dict[str, Any]) -> str:
    details = entry["details"]
    said = [str(details[key]) for key in ("strategy", "verdict", "refused") if key in details]
    if entry["reason"]:
        said.append(entry["reason"])
    return f"{entry['at'][:19]}  {entry['event']:<18} {entry['by']}  {'; '.join(said)}".rstrip()


def ledger_text(head: Head, flaws: Sequence[Flaw]) -> str:
    """What the check of a ledger found."""
    if not flaws:
        return (
            f"in order: {head.seq} entries, head {head.hash[:12]}\n"
            "Keep a copy of head.json elsewhere: only it shows a ledger that was cut off or "
            "rewritten by whoever has the signing key."
        )
    return "\n".join([f"{len(flaws)} flaws", *map(str, flaws)])
