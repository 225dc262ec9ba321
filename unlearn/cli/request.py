"""``unlearn request``: take deletion requests in, decide on them, process and close them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from unlearn.cli import options as opt
from unlearn.cli.console import emit, say
from unlearn.cli.inputs import read_forget_set, read_model
from unlearn.cli.office import Office, hide_arguments, office, person_of
from unlearn.cli.request_text import document_of, ledger_text, line_of, show_document, show_text
from unlearn.errors import InputError

if TYPE_CHECKING:
    from unlearn.deletion.request import DeletionRequest, ScopedModel

GROUNDS = (
    "no-longer-needed",
    "consent-withdrawn",
    "objection",
    "unlawful-processing",
    "legal-obligation",
    "collected-from-a-child",
    "dangerous-capability",
)
RULES = "gdpr"


@click.group(
    epilog="\b\nExamples:\n"
    "  unlearn request open --store office --subject - --forget-set facts --model models/a\n"
    "  unlearn request approve 3f2a90c1d4e5b607 --store office\n"
    "  unlearn request process 3f2a90c1d4e5b607 --store office -o models/b\n"
    "  unlearn request list --store office --due 7d\n"
)
def request() -> None:
    """Take deletion requests in, keep them on time, process them, and keep the evidence.

    A store holds requests, a signed ledger of what happened to them, and a vault for what is
    personal. Ids are random: nothing outside the vault says whom a request is about.
    """
    hide_arguments()


@request.command(
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
    _emit(options, made)


@request.command(epilog="\b\nExample:\n  unlearn request scope ID --forget-set facts --model m\n")
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
        _emit(options, store.scope(id_, facts, scoped, by=desk.by))


def _scoped(source: str, options: opt.Options) -> ScopedModel:
    from unlearn.deletion.request import ScopedModel

    place = Path(source)
    where = str(place.resolve()) if place.is_dir() else source
    return ScopedModel(source=where, digest=read_model(source, options).digest)


@request.command(
    name="list", epilog="\b\nExample:\n  unlearn request list --store office --due 7d\n"
)
@click.option(
    "--due",
    metavar="DAYS",
    help="Only those whose answer is due within so many days, such as 7d, or overdue.",
)
@click.option(
    "--calendar",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write the due days to an iCalendar file too.",
)
@opt.shared_idle
@office
def list_(options: opt.Options, desk: Office, *, due: str | None, calendar: Path | None) -> None:
    """List requests, the most urgent first."""
    from datetime import UTC, datetime, timedelta

    from unlearn.deletion.states import OPEN

    day = None
    if due is not None:
        day = datetime.now(UTC).date() + timedelta(days=_days(due))
    with desk.store() as store:
        found = store.requests(day)
    if calendar is not None:
        from unlearn.atomic_folder import write_whole
        from unlearn.deletion.calendar import calendar_of

        write_whole(calendar, calendar_of([each for each in found if each.state in OPEN]))
        say(options, f"calendar written to {calendar}")
    text = "\n".join(line_of(each) for each in found) or "no requests"
    emit(options, [document_of(each) for each in found], text)


def _days(text: str) -> int:
    number = text.strip().lower().removesuffix("d")
    if not number.isdecimal() or len(number) > 4:
        raise InputError(f"--due {text!r} is no number of days; write it like 7d")
    return int(number)


@request.command(epilog="\b\nExample:\n  unlearn request show ID --store office\n")
@click.argument("id_", metavar="ID")
@opt.shared_idle
@office
def show(options: opt.Options, desk: Office, *, id_: str) -> None:
    """Show a request: its state, what happened to it, its evidence and the models it is about."""
    with desk.store() as store:
        document = show_document(store, id_)
    emit(options, document, show_text(document))


@request.command(epilog="\b\nExample:\n  unlearn request identity ID --asked --store office\n")
@click.argument("id_", metavar="ID")
@click.option("--asked/--verified", required=True, help="What happened.")
@opt.reason
@opt.shared_idle
@office
def identity(options: opt.Options, desk: Office, *, id_: str, asked: bool, reason: str) -> None:
    """Say that the person was asked who they are, or that they have shown it.

    Under the GDPR the clock stands still in between.
    """
    with desk.store() as store:
        step = store.ask_identity if asked else store.verify_identity
        _emit(options, step(id_, by=desk.by, reason=reason))


@request.command(epilog="\b\nExample:\n  unlearn request extend ID --reason 'many requests'\n")
@click.argument("id_", metavar="ID")
@opt.reason
@opt.shared_idle
@office
def extend(options: opt.Options, desk: Office, *, id_: str, reason: str) -> None:
    """Take the further time that the rules give; the person has to be told why, in time."""
    if not reason:
        raise InputError("an extension needs its --reason: it is what the person has to be told")
    with desk.store() as store:
        _emit(options, store.extend(id_, by=desk.by, reason=reason))


@request.command(epilog="\b\nExample:\n  unlearn request approve ID --store office\n")
@click.argument("id_", metavar="ID")
@opt.reason
@opt.shared_idle
@office
def approve(options: opt.Options, desk: Office, *, id_: str, reason: str) -> None:
    """Decide that a request is to be carried out."""
    with desk.store() as store:
        _emit(options, store.approve(id_, by=desk.by, reason=reason))


@request.command(epilog="\b\nExample:\n  unlearn request deny ID --reason 'no data of theirs'\n")
@click.argument("id_", metavar="ID")
@opt.reason
@opt.shared_idle
@office
def deny(options: opt.Options, desk: Office, *, id_: str, reason: str) -> None:
    """Decide that a request is not to be carried out, and why."""
    if not reason:
        raise InputError("a denial needs its --reason: the person has a right to know it")
    _take(options, desk, id_, "deny", reason)


@request.command(epilog="\b\nExample:\n  unlearn request decide ID model-retired --store office\n")
@click.argument("id_", metavar="ID")
@click.argument("outcome", type=click.Choice(("retrain-scheduled", "model-retired")))
@opt.reason
@opt.shared_idle
@office
def decide(options: opt.Options, desk: Office, *, id_: str, outcome: str, reason: str) -> None:
    """Answer a request by training anew, or by taking the model out of use."""
    _take(options, desk, id_, outcome, reason)


@request.command(epilog="\b\nExample:\n  unlearn request deploy ID --store office\n")
@click.argument("id_", metavar="ID")
@opt.reason
@opt.shared_idle
@office
def deploy(options: opt.Options, desk: Office, *, id_: str, reason: str) -> None:
    """Say that the outcome is what users get now."""
    _take(options, desk, id_, "deploy", reason)


@request.command(epilog="\b\nExample:\n  unlearn request notify ID --store office\n")
@click.argument("id_", metavar="ID")
@opt.reason
@opt.shared_idle
@office
def notify(options: opt.Options, desk: Office, *, id_: str, reason: str) -> None:
    """Say that the person was told."""
    _take(options, desk, id_, "notify", reason)


@request.command(epilog="\b\nExample:\n  unlearn request close ID --store office\n")
@click.argument("id_", metavar="ID")
@opt.reason
@opt.shared_idle
@office
def close(options: opt.Options, desk: Office, *, id_: str, reason: str) -> None:
    """Destroy the request's key: its records cannot be read again, nor linked to its evidence.

    The ledger and the evidence stay. Audits of later models cannot measure these records any more.
    """
    with desk.store() as store:
        before = store.get(id_)
        closed = store.close_request(id_, by=desk.by, reason=reason)
    if before.state not in ("notified", "closed"):
        say(options, f"request {id_} was {before.state}: nobody has said that the person knows")
    _emit(options, closed)


@request.command(epilog="\b\nExample:\n  unlearn request verify --store office\n")
@click.option(
    "--key",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The public key that the ledger is signed by, as kept elsewhere.  [default: the store's]",
)
@click.option(
    "--head",
    "heads",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="FILE",
    help="A copy of an earlier head.json that the ledger must still contain; may be given more "
    "than once.",
)
@click.option(
    "--export",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write the ledger's entries to a file, one JSON line each.",
)
@opt.shared_idle
@office
def verify(
    options: opt.Options,
    desk: Office,
    *,
    key: Path | None,
    heads: tuple[Path, ...],
    export: Path | None,
) -> None:
    """Check the ledger's chain and signature, and that registry and vault agree with it.

    Exit codes: 0 all in order, 1 something is not, 2 wrong usage or input.
    """
    from unlearn.cli.office import read_head
    from unlearn.signing import read_public_key

    kept = [read_head(path) for path in heads]
    public = None if key is None else read_public_key(key)
    with desk.store() as store:
        flaws = store.verify(public, kept)
        with store.registry.look() as view:
            head = view.head()
            lines = list(view.ledger()) if export is not None else []
    if export is not None:
        export.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    document = {
        "entries": head.seq,
        "head": head.hash,
        "flaws": [flaw.model_dump() for flaw in flaws],
    }
    emit(options, document, ledger_text(head, flaws))
    raise click.exceptions.Exit(1 if flaws else 0)


def _take(options: opt.Options, desk: Office, id_: str, step: str, reason: str) -> None:
    with desk.store() as store:
        _emit(options, store.take_step(id_, step, by=desk.by, reason=reason))


def _emit(options: opt.Options, request: DeletionRequest) -> None:
    emit(options, document_of(request), line_of(request))


def _register_process() -> None:
    from unlearn.cli.request_process import process

    request.add_command(process)


_register_process()
