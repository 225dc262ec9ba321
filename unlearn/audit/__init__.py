"""Audits: what a model still knows of a forget set, what it lost, and how sure that is."""

from unlearn.audit.auditor import audit

__all__ = ["audit"]
