"""``unlearn request``: take deletion requests in, decide on them, process and close them."""

from __future__ import annotations

from pathlib import Path

import click

from unlearn.cli import options as opt
from unlearn.cli.console import emit, say
from unlearn.cli.office import Office, hide_arguments, office
from unlearn.cli.request_kit import unseal, write_kit
from unlearn.cli.request_models import models
from unlearn.cli.request_open import open_, scope
from unlearn.cli.request_process import process
from unlearn.cli.request_text import (
    document_of,
    ledger_text,
    line_of,
    print_request,
    show_document,
    show_text,
)
from unlearn.errors import InputError


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
        print_request(options, step(id_, by=desk.by, reason=reason))


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
        print_request(options, store.extend(id_, by=desk.by, reason=reason))


@request.command(epilog="\b\nExample:\n  unlearn request approve ID --store office\n")
@click.argument("id_", metavar="ID")
@opt.reason
@opt.shared_idle
@office
def approve(options: opt.Options, desk: Office, *, id_: str, reason: str) -> None:
    """Decide that a request is to be carried out."""
    with desk.store() as store:
        print_request(options, store.approve(id_, by=desk.by, reason=reason))


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
@click.option(
    "--kit",
    type=(click.Path(path_type=Path, dir_okay=False), click.Path(path_type=Path)),
    metavar="FILE PUB",
    help="Before that, write the records to FILE, encrypted to the X25519 key in PUB, for audits "
    "of later models by whoever has its private half; see `unlearn request unseal`.",
)
@opt.reason
@opt.shared_idle
@office
def close(
    options: opt.Options, desk: Office, *, id_: str, kit: tuple[Path, Path] | None, reason: str
) -> None:
    """Destroy the request's key: its records cannot be read again, nor linked to its evidence.

    The ledger and the evidence stay. Audits of later models cannot measure these records any more.
    """
    with desk.store() as store:
        before = store.get(id_)
        if kit is not None:
            write_kit(store, id_, *kit)
        closed = store.close_request(id_, by=desk.by, reason=reason)
    if before.state not in ("notified", "closed"):
        say(options, f"request {id_} was {before.state}: nobody has said that the person knows")
    print_request(options, closed)


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
        print_request(options, store.take_step(id_, step, by=desk.by, reason=reason))


for command in (open_, scope, process, models, unseal):
    request.add_command(command)
