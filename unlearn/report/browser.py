"""PDF, by the browser that is installed: what it prints, it prints as people see it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from unlearn.errors import InputError, UnsupportedError

BROWSERS = (
    *("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"),
    "microsoft-edge",
)
VARIABLE = "UNLEARN_BROWSER"
SECONDS = 120
OFFLINE = (
    *("--headless", "--disable-gpu", "--disable-background-networking", "--disable-sync"),
    *("--disable-extensions", "--disable-dev-shm-usage", "--no-first-run", "--mute-audio"),
    *("--host-resolver-rules=MAP * ~NOTFOUND", "--no-pdf-header-footer"),
)
"""No window, and no name that resolves: the page needs nothing, and the browser asks nobody."""


def find_browser() -> str:
    """The browser to print with: what ``UNLEARN_BROWSER`` names, or a known one on the path.

    Raises:
        UnsupportedError: there is none.
    """
    named = os.environ.get(VARIABLE)
    found = next(
        (path for name in ([named] if named else BROWSERS) if (path := shutil.which(name))), None
    )
    if found is None:
        what = f"{VARIABLE} names {named!r}, which is no program" if named else "there is none here"
        raise UnsupportedError(
            f"PDF needs Chromium, Chrome or Edge, and {what}; install one (Debian: `apt install "
            f"chromium`), set {VARIABLE}, or print audit.html from any browser"
        )
    return found


def render_pdf(html: str) -> bytes:
    """The page as a PDF, A4. Not byte-stable: the browser writes the time into it.

    Raises:
        UnsupportedError: there is no browser.
        InputError: the browser did not print.
    """
    browser = find_browser()
    with TemporaryDirectory(prefix="unlearn-pdf-") as scratch:
        folder = Path(scratch)
        page, printed = folder / "page.html", folder / "page.pdf"
        page.write_text(html, encoding="utf-8")
        # Root has no sandbox; the page may run nothing, by its own policy.
        unsandboxed = ("--no-sandbox",) if hasattr(os, "geteuid") and os.geteuid() == 0 else ()
        command = [
            *(browser, *OFFLINE, *unsandboxed, f"--user-data-dir={folder / 'profile'}"),
            *(f"--print-to-pdf={printed}", page.as_uri()),
        ]
        try:
            done = subprocess.run(command, capture_output=True, timeout=SECONDS, check=False)
        except subprocess.TimeoutExpired as error:
            raise InputError(f"{browser} did not print within {SECONDS} seconds") from error
        except OSError as error:
            raise InputError(f"{browser} cannot be started: {error.strerror}") from error
        if not printed.is_file():
            raise InputError(
                f"{browser} printed nothing (exit code {done.returncode}); set {VARIABLE} to "
                "another browser, or print audit.html from any"
            )
        return printed.read_bytes()
