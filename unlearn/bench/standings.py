"""What a contest came to, as tables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from unlearn.bench.contest import EVERYWHERE, Outcome
from unlearn.bench.equivalence import FIGURES

WHO = ("strategy", "sites", "n")
LEFT = (*WHO, "R", "by", *FIGURES.values())
PRICE = (*WHO, "retain", "neighbors", "perplexity", "seconds", "MiB", "tokens", "verdict")

KEPT = {"retain": "answers/retain", "neighbors": "answers/neighbors"}
LOSS = "nll_per_token/neighbors"


class Group(NamedTuple):
    """The outcomes of one way to forget on one choice of sites, over its seeds."""

    name: str
    sites: str
    outcomes: tuple[Outcome, ...]


def groups(outcomes: Iterable[Outcome]) -> list[Group]:
    """Seeds together, in order of appearance."""
    found: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in outcomes:
        found.setdefault((str(outcome.entry), outcome.entry.sites), []).append(outcome)
    return [Group(*key, tuple(of_key)) for key, of_key in found.items()]


def table(outcomes: Sequence[Outcome]) -> str:
    """Two Markdown tables, a row for each strategy and its sites: what is left, and its price.

    Over seeds: the mean, and of R the lowest too. Knowledge figures are shares of the forget
    records, as the auditor gives them, below those of original and reference. Retain and neighbors
    are points of answers gained or lost against the original, perplexity is that of the neighbours'
    answers, and MiB is memory beyond the loaded model.
    """
    lines = _head(LEFT)
    measured = [outcome for outcome in outcomes if outcome.figures]
    for role in ("original", "reference") if measured else ():
        figures = [_number(_mean(measured[:1], key, role)) for key in FIGURES]
        lines.append(_line([f"*{role}*", "", "", "", "", *figures]))
    lines += [_line(_left(group)) for group in groups(outcomes)]
    lines += ["", *_head(PRICE)]
    lines += [_line(_price(group)) for group in groups(outcomes) if _done(group)]
    notes = list(_refusals(outcomes))
    return "\n".join([*lines, *(["", *notes] if notes else [])])


def _head(names: Sequence[str]) -> list[str]:
    return [_line(names), "|---" * len(names) + "|"]


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _done(group: Group) -> list[Outcome]:
    return [outcome for outcome in group.outcomes if outcome.figures]


def _left(group: Group) -> list[str]:
    done = _done(group)
    if not done:
        return [group.name, group.sites, "0", "refused", *[""] * (len(LEFT) - 4)]
    values = [o.equivalence for o in done if o.equivalence is not None]
    lowest = f" ({min(values):.2f})" if len(values) > 1 else ""
    worst = min(done, key=lambda o: np.inf if o.equivalence is None else o.equivalence).worst
    return [
        group.name,
        group.sites,
        str(len(done)),
        f"{np.mean(values):.2f}{lowest}" if values else "–",
        FIGURES.get(worst, "–"),
        *(_number(_mean(done, key, "unlearned")) for key in FIGURES),
    ]


def _price(group: Group) -> list[str]:
    done = _done(group)
    loss = _mean(done, LOSS, "unlearned")
    return [
        group.name,
        group.sites,
        str(len(done)),
        *(_points(done, key) for key in KEPT.values()),
        _number(None if loss is None else math.exp(loss)),
        f"{np.mean([o.seconds for o in done]):.0f}",
        f"{np.mean([o.peak_mib for o in done]):.0f}",
        f"{np.mean([o.tokens for o in done]):,.0f}".replace(",", " "),
        ", ".join(sorted({o.verdict for o in done})),
    ]


def _refusals(outcomes: Iterable[Outcome]) -> Iterator[str]:
    said = dict.fromkeys((str(o.entry), o.entry.sites, o.refused) for o in outcomes if o.refused)
    for name, sites, why in said:
        where = "" if sites == EVERYWHERE else f" on {sites}"
        yield f"- {name}{where}: {why}"


def _mean(outcomes: Iterable[Outcome], key: str, role: str) -> float | None:
    found = [value for o in outcomes if (value := o.figures.get(key, {}).get(role)) is not None]
    return float(np.mean(found)) if found else None


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _points(outcomes: Sequence[Outcome], key: str) -> str:
    before, after = _mean(outcomes, key, "original"), _mean(outcomes, key, "unlearned")
    return "–" if before is None or after is None else f"{100 * (after - before):+.1f}"
