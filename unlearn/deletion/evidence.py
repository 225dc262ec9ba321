"""Evidence of a request: audits, reports for each reader and signed statements, written whole."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from unlearn.artifact_manifest import sha256_of
from unlearn.atomic_folder import appearing_at
from unlearn.report import READERS, report, sign_audit
from unlearn.report.signature import STATEMENT
from unlearn.types import AuditResult

AUDIT = "audit.json"
DRAWN = ("html", "md")
ATTEMPT = "attempt-"
"""How the folder of an attempt begins; its number follows."""


def last_attempt(folder: Path) -> int:
    """The number of the newest attempt in the evidence of a request; 0 where there is none."""
    numbers = (path.name.removeprefix(ATTEMPT) for path in folder.glob(f"{ATTEMPT}*"))
    return max((int(number) for number in numbers if number.isdecimal()), default=0)


def write_evidence(target: Path, result: AuditResult) -> str:
    """Writes an audit and its report over those of an earlier run.

    Returns:
        SHA-256 of ``audit.json``.
    """
    with appearing_at(target) as folder:
        report(result, folder)
    return sha256_of(target / AUDIT)


def write_signed(
    target: Path,
    result: AuditResult,
    key: Ed25519PrivateKey,
    *,
    request: str,
    model_dir: Path | None = None,
) -> dict[str, str]:
    """The same with a signed statement, and a report for each reader that tells of it.

    Args:
        target: the folder; what is there is replaced in one step.
        result: the audit that a request is answered with.
        key: the store's.
        request: its id.
        model_dir: the model's files, which the statement names by their digests. A policy's are
            not: the keys among them may be kept elsewhere, or destroyed.

    Returns:
        SHA-256 of the ``audit`` and of the ``statement``.
    """
    with appearing_at(target) as folder:
        report(result, folder)
        sign_audit(folder, key, model_dir, request)
        for reader in READERS:
            report(result, folder, DRAWN, reader)
    return {"audit": sha256_of(target / AUDIT), "statement": sha256_of(target / STATEMENT)}
