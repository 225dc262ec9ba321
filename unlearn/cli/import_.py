"""``unlearn import``: forget sets made of other data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from unlearn.cli import options as opt
from unlearn.cli import outputs
from unlearn.cli.console import emit
from unlearn.types import SPLITS

if TYPE_CHECKING:
    from unlearn.forget_set import ForgetSet


@click.group(
    name="import",
    epilog="\b\nExamples:\n"
    "  unlearn import csv facts.csv -o facts\n"
    "  unlearn import documents letters -o letters-set\n",
)
def import_() -> None:
    """Make a forget set of a table or of texts."""


def _output(command: Callable[..., None]) -> Callable[..., None]:
    command = click.option(
        "--name", default="imported", show_default=True, help="The set's name; no person's."
    )(command)
    return click.option(
        "-o",
        "--output",
        type=click.Path(path_type=Path),
        required=True,
        metavar="FORGET_SET",
        help="The forget set's folder.",
    )(command)


@import_.command(
    epilog="\b\nExample:\n  unlearn import csv facts.csv -o facts\n"
    "\b\nA table:\n"
    "  subject,prompt,answer,split\n"
    "  Ada Quill,Ada Quill was born in,Tarn,forget\n"
    "  Bo Fenn,Bo Fenn was born in,Ostel,retain\n"
)
@click.argument("source", metavar="SRC", type=click.Path(path_type=Path))
@_output
@opt.force
@opt.shared_idle
def csv(options: opt.Options, *, source: Path, output: Path, name: str, force: bool) -> None:
    """Make a forget set of a CSV table.

    It has a line of headings: subject, prompt and answer, and if you like split, relation, id,
    separator, paraphrases and alternatives, several of them with | between.
    """
    from unlearn.csv_records import read_csv

    _write(options, read_csv(source, name, "Imported from a table."), output, force)


@import_.command(epilog="\b\nExample:\n  unlearn import documents letters -o letters-set\n")
@click.argument("source", metavar="DIR", type=click.Path(path_type=Path))
@_output
@opt.force
@opt.shared_idle
def documents(options: opt.Options, *, source: Path, output: Path, name: str, force: bool) -> None:
    """Make a forget set of texts that a model must not go on with word for word.

    Every .txt and .md file below DIR is cut into passages. Files below DIR/retain, DIR/neighbors
    and DIR/holdout go into those splits.
    """
    from unlearn.documents import read_documents

    _write(options, read_documents(source, name, "Imported from texts."), output, force)


def _write(options: opt.Options, made: ForgetSet, output: Path, force: bool) -> None:
    with outputs.folder(output, outputs.FORGET_SET, force=force) as folder:
        made.write(folder)
    counts = {split: len(made.split(split)) for split in SPLITS}
    document = {"forget_set": str(output), "digest": made.digest, "records": counts}
    said = ", ".join(f"{n} {split}" for split, n in counts.items())
    emit(options, document, f"forget set written to {output}: {said}")
