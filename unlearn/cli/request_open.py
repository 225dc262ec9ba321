"""``unlearn request open`` and ``scope``: a request comes in, and what it is about."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from unlearn.cli import options as opt
from unlearn.cli.inputs import read_forget_set, read_model
from unlearn.cli.office import Office, office, person_of
from unlearn.cli.request_text import print_request
from unlearn.deletion.request import GROUNDS
from unlearn.errors import InputError

if TYPE_CHECKING:
    from unlearn.deletion.request import ScopedModel

RULES = "gdpr"


@click.command(
    name="open",
    epilog="\b\nExample:\n"
    "  echo 'Ada Quill' | unlearn request open --store office --subject - \\\n"
    "      --forget-set facts --model models/a --received 2026-03-05 --json\n",
)
@click.option(
    "--subject",
    required=True,
    metavar="NAME",
    help="Whom it is about; - reads it from stdin, further identifiers on further lines. Names on "
    "a command line stay in the shell's history.",
)
@click.option(
    "--identifier",
    "identifiers",
    multiple=True,
    metavar="TEXT",
    help="What else they are known by: an address, a customer number; may be given more than once.",
)
@click.option(
    "--ground",
    type=click.Choice(GROUNDS),
    default="consent-withdrawn",
    show_default=True,
    help="The ground claimed, Article 17(1) GDPR.",
)
@click.option("--received", metavar="DATE", help="The day it came in.  [default: today]")
@click.option(
    "--rules",
    default=RULES,
    show_default=True,
    metavar="NAME",
    help="By when it is answered: gdpr, ccpa, or a TOML file.",
)
@click.option(
    "--zone", default="UTC", show_default=True, help="The time zone of whoever answers it."
)
@click.option("--forget-set", metavar="DIR", help="The records that have to go.")
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="MODEL",
    help="A model that they have to go from; may be given more than once.",
)
@click.option("--again", is_flag=True, help="Open it although one about the same person is open.")
@opt.shared
@opt.trust
@office
def open_(
    options: opt.Options,
    desk: Office,
    *,
    subject: str,
    identifiers: tuple[str, ...],
    ground: str,
    received: str | None,
    rules: str,
    zone: str,
    forget_set: str | None,
    models: tuple[str, ...],
    again: bool,
) -> None:
    """Take a request in; prints its id.

    With --forget-set and --model it can be decided on at once; otherwise `unlearn request scope`
    adds them. The store is made if it does not exist.
    """
    from unlearn.deletion.request import DeletionRequest
    from unlearn.deletion.rules import local_day, read_rules, read_zone

    person = person_of(subject, identifiers)
    day = local_day(received, read_zone(zone)) if received else None
    read_zone(zone)
    new = DeletionRequest.open(
        ground=ground,  # type: ignore[arg-type]
        received=day,
        rules=read_rules(rules),
        zone=zone,
    )
    if (forget_set is None) != (not models):
        raise InputError("--forget-set and --model belong together; give both, or scope it later")
    facts = None if forget_set is None else read_forget_set(forget_set)
    scoped = [_scoped(model, options) for model in models]
    with desk.store(create=True) as store:
        made = store.open(new, person, by=desk.by, forget_set=facts, models=scoped, again=again)
    print_request(options, made)


@click.command(epilog="\b\nExample:\n  unlearn request scope ID --forget-set facts --model m\n")
@click.argument("id_", metavar="ID")
@click.option("--forget-set", metavar="DIR", required=True, help="The records that have to go.")
@click.option(
    "--model", "models", multiple=True, required=True, metavar="MODEL", help="From which models."
)
@opt.shared
@opt.trust
@office
def scope(
    options: opt.Options, desk: Office, *, id_: str, forget_set: str, models: tuple[str, ...]
) -> None:
    """Say which records have to go, and from which models."""
    facts = read_forget_set(forget_set)
    scoped = [_scoped(model, options) for model in models]
    with desk.store() as store:
        print_request(options, store.scope(id_, facts, scoped, by=desk.by))


def _scoped(source: str, options: opt.Options) -> ScopedModel:
    from unlearn.deletion.request import ScopedModel

    place = Path(source)
    where = str(place.resolve()) if place.is_dir() else source
    return ScopedModel(source=where, digest=read_model(source, options).digest)
