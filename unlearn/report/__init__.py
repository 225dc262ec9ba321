"""An audit as files a person can read, send and keep: HTML, Markdown, JSON and JUnit XML.

>>> from unlearn.report import read, report, render_markdown
>>> paths = report(read("reports/example"), "reports/example")  # doctest: +SKIP
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from unlearn.report.files import as_json, choose, read, write
from unlearn.report.html import render_html
from unlearn.report.junit import render_junit
from unlearn.report.markdown import render_markdown
from unlearn.types import AuditResult

__all__ = [
    "FORMATS",
    "STANDARD",
    "read",
    "render_html",
    "render_junit",
    "render_markdown",
    "report",
]

FORMATS: Mapping[str, Callable[[AuditResult], str]] = {
    "html": render_html,
    "md": render_markdown,
    "json": as_json,
    "junit": render_junit,
}
"""Format to what draws it."""

STANDARD = ("html", "md", "json")
"""What is drawn unless something else is asked for."""

ENDINGS = {"junit": "junit.xml"}
"""Of ``audit.*``, where the ending is not the format."""


def report(
    result: AuditResult, directory: Path | str, formats: Iterable[str] = STANDARD
) -> dict[str, Path]:
    """Writes ``audit.<ending>`` for each format, and returns where each one is.

    Everything is drawn before anything is written, and each file appears whole or not at all.

    Raises:
        InputError: a format is unknown, or the directory cannot be written to.
    """
    chosen = choose(formats, FORMATS)
    paths = {name: Path(directory) / f"audit.{ENDINGS.get(name, name)}" for name in chosen}
    write({path: FORMATS[name](result) for name, path in paths.items()})
    return paths
