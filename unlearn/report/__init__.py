"""An audit as files a person can read, send and keep: HTML, Markdown and JSON.

>>> from unlearn.report import read, report, render_markdown
>>> paths = report(read("reports/example"), "reports/example")  # doctest: +SKIP
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from unlearn.report.files import as_json, choose, read, write
from unlearn.report.html import render_html
from unlearn.report.markdown import render_markdown
from unlearn.types import AuditResult

__all__ = ["FORMATS", "read", "render_html", "render_markdown", "report"]

FORMATS: Mapping[str, Callable[[AuditResult], str]] = {
    "html": render_html,
    "md": render_markdown,
    "json": as_json,
}
"""Format, which is also the ending of ``audit.*``, to what draws it."""


def report(
    result: AuditResult, directory: Path | str, formats: Iterable[str] = ("html", "md", "json")
) -> dict[str, Path]:
    """Writes ``audit.<format>`` for each format, and returns where each one is.

    Everything is drawn before anything is written, and each file appears whole or not at all.

    Raises:
        InputError: a format is unknown, or the directory cannot be written to.
    """
    paths = {name: Path(directory) / f"audit.{name}" for name in choose(formats, FORMATS)}
    write({path: FORMATS[name](result) for name, path in paths.items()})
    return paths
