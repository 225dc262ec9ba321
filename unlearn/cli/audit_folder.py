"""The folder of an audit: whether it is one, and its pages drawn again."""

from __future__ import annotations

from pathlib import Path

from unlearn.errors import InputError


def check_audit(directory: Path) -> None:
    """Refuses a folder without an audit.

    Raises:
        InputError: there is none.
    """
    if not (directory / "audit.json").is_file():
        raise InputError(
            f"{directory} holds no audit.json; give a folder that `unlearn audit -o DIR` wrote"
        )


def redraw(directory: Path) -> None:
    """Draws again the pages that are in the folder, after what they tell of has changed."""
    from unlearn.report import FOR, read
    from unlearn.report import report as draw_all

    result = read(directory)
    for reader in FOR:
        stem = "audit" if reader == "officer" else f"audit.{reader}"
        there = [kind for kind in ("html", "md") if (directory / f"{stem}.{kind}").exists()]
        draw_all(result, directory, there, reader)
