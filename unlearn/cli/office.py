"""From the options of ``unlearn request`` to the store, and to whoever asks."""

from __future__ import annotations

import functools
import getpass
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from pydantic import ValidationError

from unlearn.cli import options as opt
from unlearn.errors import InputError

if TYPE_CHECKING:
    from unlearn.deletion.ledger import Head
    from unlearn.deletion.store import Person, Store


@dataclass(frozen=True)
class Office:
    """Which store, and who works in it."""

    place: str
    folder: Path | None
    master_key: str | None
    by: str

    def store(self, *, create: bool = False) -> Store:
        """The store; with ``create`` a new one where there is none.

        Raises:
            InputError: it cannot be opened.
        """
        from unlearn.deletion.store import Store

        url = self.place if "://" in self.place else None
        if url is not None and self.folder is None:
            raise InputError(
                "a database holds requests and ledger, and the vault needs a folder; give --folder"
            )
        if url is None and self.folder is not None:
            raise InputError("--folder goes with a database URL; a --store that is a folder has it")
        folder = self.folder if url is not None else Path(self.place)
        assert folder is not None
        return Store(folder, url=url, master_key=self.master_key, create=create)


def office(command: Callable[..., None]) -> Callable[..., None]:
    """A command that works in a store, and gets an ``Office`` after the shared options."""

    @click.option(
        "--store",
        required=True,
        envvar="UNLEARN_STORE",
        metavar="DIR",
        help="The store's folder, or a database URL such as postgresql://host/name with --folder.",
    )
    @click.option(
        "--folder",
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="The folder of vault and evidence, where --store is a database.",
    )
    @click.option(
        "--master-key",
        metavar="SOURCE",
        help="Where the master key is: a file, or keyring:NAME.  [default: the variable "
        "UNLEARN_MASTER_KEY, or keys/master.key in the store]",
    )
    @click.option("--by", metavar="NAME", help="Who does this.  [default: the user's login]")
    @functools.wraps(command)
    def run(
        options: opt.Options,
        *,
        store: str,
        folder: Path | None,
        master_key: str | None,
        by: str | None,
        **arguments: Any,
    ) -> None:
        command(options, Office(store, folder, master_key, by or _login()), **arguments)

    return run


def person_of(subject: str, identifiers: tuple[str, ...]) -> Person:
    """Whoever asks; ``-`` reads them from stdin, a line each, the name first.

    Raises:
        InputError: the name is empty.
    """
    from unlearn.deletion.store import Person

    names = [subject, *identifiers]
    if subject == "-":
        names = [*sys.stdin.read().splitlines(), *identifiers]
    names = [name.strip() for name in names if name.strip()]
    if not names:
        raise InputError("the subject is empty; give a name, or - and the name on stdin")
    return Person(names[0], tuple(names[1:]))


def read_head(path: Path) -> Head:
    """A head of a ledger that somebody kept.

    Raises:
        InputError: there is none in the file.
    """
    from unlearn.deletion.ledger import Head

    try:
        return Head.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        raise InputError(
            f"{path} is no head of a ledger; give a copy of a store's head.json"
        ) from None


def hide_arguments() -> None:
    """Has what other users see of this process not repeat its arguments: one may be a name."""
    from setproctitle import setproctitle

    setproctitle("unlearn request")


def _login() -> str:
    try:
        return getpass.getuser()
    except OSError:
        return "unknown"
