"""``unlearn lab``: the bundled models and forget sets as ordinary folders."""

from __future__ import annotations

from pathlib import Path

import click

from unlearn.cli import options as opt
from unlearn.cli import outputs
from unlearn.cli.console import emit, working


@click.group()
def lab() -> None:
    """The bundled models and forget sets: an invented world with known ground truth."""


@lab.command()
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@opt.force
@opt.shared_idle
def export(options: opt.Options, *, directory: Path, force: bool) -> None:
    """Copy every bundled model and forget set into DIR, as ordinary folders."""
    from unlearn.lab import bundled

    with outputs.folder(directory, outputs.LAB, force=force) as made:
        made.mkdir()
        bundled.export(made)
        (made / outputs.LAB.marker).write_text(bundled.card(), encoding="utf-8")
        names = sorted(str(path.parent.relative_to(made)) for path in _folders(made))
    folders = {name: str(directory / name) for name in names}
    emit(options, folders, "\n".join(folders.values()))


@lab.command()
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DIR",
    help="The folder for the models, forget sets and card.",
)
@click.option(
    "--model",
    "models",
    type=click.Choice(["full", "reference", "reference-2", "reference-3", "reference-4"]),
    multiple=True,
    help="Train only this model; may be given more than once.  [default: the first three]",
)
@click.option(
    "--tokens",
    type=click.IntRange(1),
    metavar="N",
    help="Train on this many tokens instead of as many as the bundled models.",
)
@opt.force
@opt.shared
def train(
    options: opt.Options, *, output: Path, models: tuple[str, ...], tokens: int | None, force: bool
) -> None:
    """Train the lab's models from scratch into DIR: about 40 minutes each on one CPU core."""
    with outputs.folder(output, outputs.LAB, force=force) as made, working(options) as progress:
        from unlearn.lab.build import build
        from unlearn.lab.bundled import MODELS
        from unlearn.lab.training import Recipe

        made.mkdir()
        recipe = Recipe() if tokens is None else Recipe(tokens=tokens)
        card = build(
            made, names=models or MODELS, seed=options.seed, recipe=recipe, progress=progress
        )
    emit(options, card.model_dump(mode="json"), (output / "card.md").read_text(encoding="utf-8"))


@lab.command()
@opt.shared_idle
def card(options: opt.Options) -> None:
    """Print the lab's card: how the models were made, and what they know."""
    from unlearn.lab import bundled

    text = bundled.card()
    emit(options, {"card": text}, text)


def _folders(root: Path) -> list[Path]:
    return [*root.rglob("config.json"), *root.rglob("card.toml")]
