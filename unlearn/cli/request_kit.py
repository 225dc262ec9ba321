"""``unlearn request unseal``, and the re-audit kits that it opens."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from unlearn.cli import options as opt
from unlearn.cli import outputs
from unlearn.cli.console import emit
from unlearn.errors import InputError

if TYPE_CHECKING:
    from unlearn.deletion.store import Store


def write_kit(store: Store, request: str, file: Path, public_key: Path) -> None:
    """Writes the records of a request, encrypted to a key.

    Raises:
        InputError: there is a file already, no key, or the records cannot be read any more.
    """
    from unlearn.atomic_folder import write_whole
    from unlearn.deletion.kit import read_kit_key, seal_kit

    if file.exists():
        raise InputError(f"{file} exists; give another name for the kit")
    key = read_kit_key(public_key)
    write_whole(file, seal_kit(store.forget_set(request), key), mode=0o600)


@click.command(
    epilog="\b\nExample:\n"
    "  unlearn request unseal kit --key kit.pem -o facts\n"
    "  unlearn audit models/c facts --reference models/without -o audit\n"
)
@click.argument("kit", type=click.Path(path_type=Path))
@click.option(
    "--key",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE",
    help="The private X25519 key that the kit is for, in PEM.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FORGET_SET",
    help="The forget set's folder. It holds the records in clear: remove it after the audit.",
)
@opt.force
@opt.shared_idle
def unseal(options: opt.Options, *, kit: Path, key: Path, output: Path, force: bool) -> None:
    """Open a re-audit kit: the records of a closed request, to audit a later model."""
    from unlearn.deletion.kit import open_kit, read_kit_private_key

    if not kit.is_file():
        raise InputError(f"there is no kit {kit}; `unlearn request close --kit` writes one")
    found = open_kit(kit.read_bytes(), read_kit_private_key(key))
    with outputs.folder(output, outputs.FORGET_SET, force=force) as folder:
        found.write(folder)
    document = {"forget_set": str(output), "records": len(found.forget)}
    emit(options, document, f"{len(found.forget)} records in clear in {output}")
