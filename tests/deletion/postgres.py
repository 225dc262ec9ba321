"""A PostgreSQL server on a Unix socket in a temporary folder, for as long as tests run."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

REASON = "no PostgreSQL server: install the package postgresql (Debian), or put initdb on the PATH"


def binaries() -> Path | None:
    """Where ``initdb`` and ``pg_ctl`` are; Debian keeps them off the path."""
    found = shutil.which("initdb")
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    places += [Path(found).parent] if found else []
    return next((place for place in places if (place / "initdb").exists()), None)


@contextmanager
def server() -> Iterator[str]:
    """The URL of a running server's database ``postgres``; everything is gone afterwards."""
    place = binaries()
    assert place is not None, REASON
    # Sockets have short paths, and those of pytest's folders are long.
    with tempfile.TemporaryDirectory(prefix="pg-") as folder:
        data = Path(folder) / "data"
        user = _owner(Path(folder))
        run = ["runuser", "-u", user, "--"] if user else []
        make = [
            *run,
            str(place / "initdb"),
            "-D",
            str(data),
            "-A",
            "trust",
            "-U",
            "tests",
            "-E",
            "UTF8",
        ]
        subprocess.run(make, check=True, capture_output=True, cwd=folder)
        settings = f"-c listen_addresses='' -k {folder} -c fsync=off -c max_connections=60"
        control = [*run, str(place / "pg_ctl"), "-D", str(data), "-w"]
        log = ["-l", str(Path(folder) / "log")]
        subprocess.run(
            [*control, *log, "-o", settings, "start"], check=True, capture_output=True, cwd=folder
        )
        try:
            yield f"postgresql://tests@/postgres?host={folder}"
        finally:
            stop = [*control, "-m", "immediate", "stop"]
            subprocess.run(stop, check=True, capture_output=True, cwd=folder)


def _owner(folder: Path) -> str:
    """Whom the server runs as, and gives them the folder: PostgreSQL refuses to run as root."""
    if os.getuid() != 0:
        return ""
    entry = pwd.getpwnam("postgres")
    os.chown(folder, entry.pw_uid, entry.pw_gid)
    return entry.pw_name
