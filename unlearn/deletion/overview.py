"""The requests of a store as rows of the overview that a report draws."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from unlearn.deletion.evidence import ATTEMPT, last_attempt
from unlearn.report.overview import OverviewRow, row_of
from unlearn.types import Verdict

if TYPE_CHECKING:
    from unlearn.deletion.request import DeletionRequest
    from unlearn.deletion.store import Store


def rows_of_store(store: Store, page: Path) -> tuple[OverviewRow, ...]:
    """A row for each request, with the audit of its last attempt where there is one.

    Args:
        store: whose requests.
        page: where the page will be; links are relative to its folder.
    """
    return tuple(_row(store, request, page) for request in store.requests())


def _row(store: Store, request: DeletionRequest, page: Path) -> OverviewRow:
    evidence = store.evidence(request.id)
    last = last_attempt(evidence)
    found = row_of(evidence / f"{ATTEMPT}{last}", page) if last else OverviewRow(id=request.id)
    known = {
        "id": request.id,
        "state": request.state,
        "due": request.due(),
        "verdict": Verdict(request.verdict) if request.verdict else None,
    }
    return found.model_copy(update=known)
