"""An audit as files a person can read, send, keep and check: HTML, Markdown, JSON, JUnit, PDF.

>>> from unlearn.report import read, report, render_markdown
>>> paths = report(read("reports/example"), "reports/example")  # doctest: +SKIP
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from unlearn.errors import InputError
from unlearn.report.browser import render_pdf
from unlearn.report.files import as_json, choose, read, write
from unlearn.report.html import render_html
from unlearn.report.junit import render_junit
from unlearn.report.markdown import render_markdown
from unlearn.report.readers import READERS, Reader, for_outsiders
from unlearn.report.signature import Signature, sign_audit, signature_of, verify_audit
from unlearn.types import AuditResult

__all__ = [
    "FORMATS",
    "READERS",
    "STANDARD",
    "read",
    "render_html",
    "render_junit",
    "render_markdown",
    "render_pdf",
    "report",
    "sign_audit",
    "verify_audit",
]

Draw = Callable[[AuditResult, Reader, Signature | None], str | bytes]

FORMATS: Mapping[str, Draw] = {
    "html": render_html,
    "md": render_markdown,
    "json": lambda result, reader, _: as_json(
        result if reader == "officer" else for_outsiders(result)
    ),
    "junit": lambda result, *_: render_junit(result),
    "pdf": lambda result, reader, signature: render_pdf(render_html(result, reader, signature)),
}
"""Format to what draws it."""

STANDARD = ("html", "md", "json")
"""What is drawn unless something else is asked for."""

FOR: Mapping[Reader, tuple[str, ...]] = {
    "officer": tuple(FORMATS),
    "regulator": ("html", "md", "json", "pdf"),
    "subject": ("html", "md", "pdf"),
}
"""Which formats there are for whom: nobody reads JUnit to a regulator, and a letter has no data."""

ENDINGS = {"junit": "junit.xml"}
"""Of ``audit.*``, where the ending is not the format."""


def report(
    result: AuditResult,
    directory: Path | str,
    formats: Iterable[str] | None = None,
    reader: Reader = "officer",
) -> dict[str, Path]:
    """Writes ``audit.<ending>`` for each format, and returns where each one is.

    Everything is drawn before anything is written, and each file appears whole or not at all. For
    other readers than the officer the names are ``audit.<reader>.<ending>``.

    Args:
        result: of an audit.
        directory: where to; a signed statement that lies there is told of.
        formats: of ``FORMATS``; ``STANDARD`` ones where none are named.
        reader: whom it is for.

    Raises:
        InputError: a format is unknown or not for this reader, the directory cannot be written to,
            or the statement in it does not read.
        UnsupportedError: PDF without a browser.
    """
    folder = Path(directory)
    chosen = choose(STANDARD if formats is None else formats, FORMATS)
    if formats is None:
        chosen = [name for name in chosen if name in FOR[reader]]
    if strange := [name for name in chosen if name not in FOR[reader]]:
        allowed = ", ".join(FOR[reader])
        raise InputError(f"there is no {strange[0]} for the {reader}; choose from {allowed}")
    signature = _signature(result, folder)
    stem = "audit" if reader == "officer" else f"audit.{reader}"
    paths = {name: folder / f"{stem}.{ENDINGS.get(name, name)}" for name in chosen}
    write({path: FORMATS[name](result, reader, signature) for name, path in paths.items()})
    return paths


def _signature(result: AuditResult, folder: Path) -> Signature | None:
    """The signature in a folder; it fits only if it is of this very audit."""
    found = signature_of(folder)
    if found is None or not found.fits:
        return found
    return found._replace(fits=as_json(read(folder)) == as_json(result))
