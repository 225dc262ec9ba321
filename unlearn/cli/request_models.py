"""``unlearn request models``: which models there are, and what they were made from."""

from __future__ import annotations

import click

from unlearn.cli import options as opt
from unlearn.cli.console import emit
from unlearn.cli.inputs import is_artifact, read_artifact, read_model
from unlearn.cli.office import Office, office
from unlearn.cli.request_text import inert
from unlearn.errors import InputError

RELATIONS = ("adapter", "fine-tuned", "merge", "quantised", "distilled", "copy")


@click.group()
def models() -> None:
    """The models that requests are about, and those that were made from them.

    A request reaches the models that it names. What was made from one of them knows what it knew:
    register it, and `unlearn request show` lists it as out of scope until a request names it.
    """


@models.command(
    name="add",
    epilog="\b\nExample:\n"
    "  unlearn request models add models/a-int4 --parent models/a --relation quantised\n",
)
@click.argument("source", metavar="MODEL")
@click.option("--parent", required=True, metavar="MODEL", help="What it was made from.")
@click.option(
    "--relation",
    type=click.Choice(RELATIONS),
    required=True,
    help="What it is to its parent.",
)
@click.option(
    "--digest",
    metavar="HEX",
    help="SHA-256 that stands for it, where it cannot be loaded from here.",
)
@opt.shared
@opt.trust
@office
def add(
    options: opt.Options,
    desk: Office,
    *,
    source: str,
    parent: str,
    relation: str,
    digest: str | None,
) -> None:
    """Register a model that was made from another: an adapter, a merge, a quantised copy."""
    from unlearn.deletion.registry import RegisteredModel

    base = read_model(parent, options)
    if digest is None:
        made = read_artifact(source).apply(base) if is_artifact(source) else None
        digest = (made or read_model(source, options)).digest
    elif len(digest) != 64 or set(digest) - set("0123456789abcdef"):
        raise InputError("--digest is no SHA-256: it has 64 hexadecimal digits in lower case")
    child = RegisteredModel(digest=digest, source=source, parent=base.digest, relation=relation)
    with desk.store() as store, store.change() as change:
        change.register(RegisteredModel(digest=base.digest, source=parent))
        change.register(child)
        details = {"digest": digest, "parent": base.digest, "relation": relation}
        change.record("", "model-registered", by=desk.by, details=dict(details))
    emit(options, child.model_dump(), f"{digest[:12]}  {relation} of {base.digest[:12]}")


@models.command(name="list", epilog="\b\nExample:\n  unlearn request models list --store office\n")
@opt.shared_idle
@office
def list_(options: opt.Options, desk: Office) -> None:
    """List the models that are known, the oldest first."""
    with desk.store() as store, store.registry.look() as view:
        known = view.models()
    lines = [
        f"{model.digest[:12]}  {model.relation:<12}  "
        f"{'of ' + model.parent[:12] if model.parent else '':<15}  {inert(model.source)}"
        for model in known
    ]
    emit(options, [model.model_dump() for model in known], "\n".join(lines) or "no models")
