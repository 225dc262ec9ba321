"""The auditor audited: what it says of every model in the zoo, and how well each figure tells.

    python benchmarks/auditor.py --write                   # standard tier; half an hour on a core
    python benchmarks/auditor.py --tier smoke              # five minutes, printed only
    python benchmarks/auditor.py --tier deep head-masked   # one specimen, three minutes more

Printed is a row a specimen with its verdicts, and whether they are as its known state demands.
Then, for each figure on forget records, the AUC between specimens that hold the records and
specimens that never saw them: 1 where every model that knows lies above every one that does not.
With ``--write`` both go into docs/auditor.md, between the markers of the tier.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from sklearn.metrics import roc_auc_score

import unlearn
from unlearn.forget_set import ForgetSet
from unlearn.journal import Journal
from unlearn.lab.bundled import calibration_of
from unlearn.lab.zoo import ZOO, Lab
from unlearn.types import AuditResult

PAGE = Path(__file__).parents[1] / "docs" / "auditor.md"
LETTERS = {"PASS": "P", "FAIL": "**F**", "INCONCLUSIVE": "i", "CONFOUNDED": "c", "NOT RUN": "–"}


def audits(names, tier: str, max_records: int) -> dict[str, AuditResult]:
    """Each specimen's audit. What specimens share, the reference above all, is measured once."""
    forget_set = ForgetSet.read("lab:ten-people")
    lab = Lab(forget_set)
    journals: dict[str, Journal] = {}
    found = {}
    for name in names:
        started = time.perf_counter()
        exhibit = ZOO[name].make(lab)
        digest = exhibit.forget_set.digest
        found[name] = unlearn.audit(
            exhibit.model,
            exhibit.forget_set,
            original=exhibit.original,
            reference=exhibit.reference,
            tier=tier,
            precisions=() if tier == "smoke" else ("int4",),
            calibration=calibration_of(digest, exhibit.reference.digest),
            max_records=max_records,
            journal=journals.setdefault(digest, Journal(None, "", kind="zoo")),
        )
        faults = ZOO[name].faults(found[name])
        seconds = time.perf_counter() - started
        words = "as it must be" if not faults else "; ".join(faults)
        print(f"{name}: {found[name].verdict}, {words} ({seconds:.0f} s)", file=sys.stderr)
    return found


def matrix(found: Mapping[str, AuditResult]) -> list[str]:
    """A row a specimen, a column a claim."""
    claims = list(dict.fromkeys(c.id for result in found.values() for c in result.claims))
    lines = [
        "P pass, **F** fail, i inconclusive, c confounded, – not run.",
        "",
        "| specimen | knows | " + " | ".join(claims) + " | verdict | label | as it must be |",
        "|---" * (len(claims) + 5) + "|",
    ]
    for name, result in found.items():
        specimen = ZOO[name]
        verdicts = {claim.id: LETTERS[claim.verdict] for claim in result.claims}
        cells = [verdicts.get(claim, "–") for claim in claims]
        faults = "; ".join(specimen.faults(result)) or "yes"
        knows = "yes" if specimen.knows else "no"
        row = [name, knows, *cells, str(result.verdict), result.label, faults]
        lines.append("| " + " | ".join(row) + " |")
    return lines


def discrimination(found: Mapping[str, AuditResult]) -> list[str]:
    """Each figure's AUC between specimens that know and those that never did."""
    told = {name: result for name, result in found.items() if name not in ("noise", "three-facts")}
    values: dict[str, list[tuple[bool, float]]] = {}
    for name, result in told.items():
        for finding in result.findings:
            if finding.split == "forget" and "unlearned" in finding.models:
                sign = 1 if finding.more_knowledge == "higher" else -1
                value = sign * finding.models["unlearned"].value
                values.setdefault(finding.key, []).append((ZOO[name].knows, value))
    rows = []
    for key, pairs in values.items():
        knows = [k for k, _ in pairs]
        if any(knows) and not all(knows):
            rows.append((roc_auc_score(knows, [v for _, v in pairs]), key, sum(knows), len(knows)))
    lines = ["| figure | AUC | models that know | that never did |", "|---|---|---|---|"]
    for auc, key, n_knowing, n in sorted(rows, reverse=True):
        lines.append(f"| `{key}` | {auc:.2f} | {n_knowing} | {n - n_knowing} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", choices=[[], *ZOO], help="specimens; all by default")
    parser.add_argument("--tier", default="standard", choices=["smoke", "standard", "deep"])
    parser.add_argument("--max-records", type=int, default=400)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    found = audits(arguments.names or list(ZOO), arguments.tier, arguments.max_records)
    text = "\n".join([*matrix(found), "", *discrimination(found)])
    print(text)
    if arguments.write:
        marker = f"<!-- zoo {arguments.tier} -->"
        page = PAGE.read_text(encoding="utf-8")
        block = f"{marker}\n{text}\n{marker}"
        page = re.sub(f"{marker}.*?{marker}", lambda _: block, page, flags=re.DOTALL)
        PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
