"""Writing an audit's files and reading them back."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from pydantic import ValidationError

from unlearn.errors import InputError
from unlearn.report.wording import escape_hidden
from unlearn.types import AuditResult

AUDIT = "audit.json"
SCHEMA = "1"


def as_json(result: AuditResult) -> str:
    """The result as ``audit.json`` holds it.

    Fields stand in the order of the type, two spaces deep. NaN and infinities are the strings
    "NaN", "Infinity" and "-Infinity", which JSON has no numbers for; hidden characters are escaped,
    so that looking at the file in a terminal is safe.
    """
    text = json.dumps(plain(result.model_dump()), indent=2, ensure_ascii=False, allow_nan=False)
    return escape_hidden(text) + "\n"


def plain(value: object) -> object:
    """The value with a string in place of each number that JSON has not."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def write(contents: Mapping[Path, str | bytes]) -> None:
    """Writes every text or file under a temporary name beside its path, then renames them all.

    Raises:
        InputError: the directory cannot be made or written to.
    """
    waiting = {path: path.with_name(f".{path.name}.{os.getpid()}.tmp") for path in contents}
    try:
        for path, temporary in waiting.items():
            content = contents[path]
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                file.write(content.encode() if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())
        for path, temporary in waiting.items():
            temporary.replace(path)
    except OSError as error:
        place = error.filename or next(iter(contents)).parent
        raise InputError(f"{place}: the report cannot be written here: {error.strerror}") from error
    finally:
        for temporary in waiting.values():
            if temporary.is_file():
                temporary.unlink()


def read(place: Path | str) -> AuditResult:
    """The audit that a directory, or an ``audit.json``, holds.

    Raises:
        InputError: there is none, it is damaged, or a newer version wrote it.
    """
    path = Path(place)
    path = path / AUDIT if path.is_dir() else path
    raw = _parse(path)
    if not isinstance(raw, dict) or "schema_version" not in raw:
        raise InputError(f"{path}: this is JSON, but no audit: it has no schema_version")
    if raw["schema_version"] != SCHEMA:
        raise InputError(
            f"{path}: schema_version is {raw['schema_version']!r}, and this unlearn reads "
            f"{SCHEMA!r}; upgrade unlearn, or run the audit again"
        )
    try:
        return AuditResult.model_validate(raw)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        others = error.error_count() - 1
        more = f" (and {others} more)" if others else ""
        raise InputError(f"{path}: {where}: {first['msg']}{more}; run the audit again") from error


def _parse(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(
            f"{path}: there is no such file; `unlearn audit -o DIR` writes {AUDIT} into DIR"
        ) from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: byte {error.start} is not UTF-8; this is no {AUDIT}") from error
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise InputError(
            f"{path}: {where}: not valid JSON ({error.msg}); the file is damaged"
        ) from error
    except RecursionError as error:
        raise InputError(f"{path}: nested too deep for an {AUDIT}; the file is damaged") from error


def choose(formats: Iterable[str], known: Collection[str]) -> list[str]:
    """The formats asked for, each once.

    Raises:
        InputError: one of them is not known.
    """
    chosen = list(dict.fromkeys(formats))
    for name in chosen:
        if name not in known:
            allowed = ", ".join(known)
            raise InputError(f"there is no report format {name!r}; choose from {allowed}")
    return chosen
