"""Strategies beside each other: equivalence by hand, what is kept, the table and the picture."""

from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from click.testing import CliRunner

from unlearn.bench import contest as room
from unlearn.bench.contest import Entry, Outcome, Table, contest
from unlearn.bench.equivalence import FIGURES, equivalence
from unlearn.bench.pictures import relearning, standings
from unlearn.bench.standings import table
from unlearn.cli.inputs import read_forget_set
from unlearn.cli.main import cli
from unlearn.types import AuditResult, Estimate, Finding


def finding(key: str, unlearned: float, original: float, reference: float, n: int = 8) -> Finding:
    values = {"unlearned": unlearned, "original": original, "reference": reference}
    return Finding.model_construct(
        key=key,
        models={role: Estimate.model_construct(value=value, n=n) for role, value in values.items()},
    )


def result(*findings: Finding) -> AuditResult:
    return AuditResult.model_construct(findings=findings)


def test_equivalence_is_the_worst_share_of_the_way_to_the_reference() -> None:
    found = equivalence(
        result(
            finding("extraction_strength/forget", 0.2, 1.0, 0.1),
            finding("lens_answers/forget", 0.5, 1.0, 0.2),
            finding("answers/forget@int4", 0.0, 0.9, 0.1),
            finding("answers/retain", 0.0, 1.0, 1.0),
        )
    )
    assert found is not None
    assert found.shares["extraction_strength/forget"] == pytest.approx(1 - 0.1 / 0.9)
    assert found.shares["lens_answers/forget"] == pytest.approx(1 - 0.3 / 0.8)
    # Below the reference counts as much as above it.
    assert found.shares["answers/forget@int4"] == pytest.approx(1 - 0.1 / 0.8)
    assert found.worst == "lens_answers/forget" and found.value == pytest.approx(0.625)
    assert len(found.shares) == 3


def test_at_lower_precision_the_original_is_that_of_full_precision() -> None:
    rounded = finding("answers/forget@int8", 0.5, 0.0, 0.1)
    without = Finding.model_construct(
        key=rounded.key, models={r: e for r, e in rounded.models.items() if r != "original"}
    )
    found = equivalence(result(finding("answers/forget", 0.1, 0.9, 0.1), without))
    assert found is not None and found.shares == {"answers/forget@int8": 1 - 0.4 / 0.8}


def test_a_figure_that_tells_the_two_apart_hardly_is_left_out() -> None:
    assert equivalence(result(finding("probability/forget", 0.5, 0.5, 0.45))) is None


def test_a_figure_of_a_handful_of_records_is_left_out() -> None:
    few = finding("implied_answers/forget", 1.0, 1.0, 0.5, n=7)
    assert equivalence(result(few)) is None
    found = equivalence(result(few, finding("probability/forget", 0.1, 0.9, 0.1)))
    assert found is not None and list(found.shares) == ["probability/forget"]


def test_the_original_has_none_of_it_and_the_reference_all() -> None:
    assert equivalence(result(finding("probability/forget", 0.9, 0.9, 0.1))).value == 0  # type: ignore[union-attr]
    assert equivalence(result(finding("probability/forget", 0.1, 0.9, 0.1))).value == 1  # type: ignore[union-attr]


def outcome(seed: int, value: float, **changes: object) -> Outcome:
    figures = {
        key: {"unlearned": 0.2 + seed / 10, "original": 1.0, "reference": 0.1} for key in FIGURES
    }
    figures["answers/retain"] = {"unlearned": 0.99, "original": 1.0}
    figures["answers/neighbors"] = {"unlearned": 0.96 - seed / 100, "original": 1.0}
    figures["nll_per_token/neighbors"] = {"unlearned": 0.25, "original": 0.0}
    curve = {"unlearned": ((0, 0.1), (5, 0.2 + seed / 10)), "reference": ((0, 0.0), (5, 0.1))}
    given = {
        "curves": {"relearned_answers/forget": curve},
        "entry": Entry(strategy="a", settings={"x": "1"}, seed=seed),
        "given": "d",
        "equivalence": value,
        "worst": "lens_answers/forget",
        "figures": figures,
        **changes,
    }
    return Outcome(**given)  # type: ignore[arg-type]


def test_the_tables_have_a_row_for_each_strategy_with_the_mean_over_seeds() -> None:
    refused = Outcome(entry=Entry(strategy="b", sites="random"), given="d", refused="no place")
    text = table([outcome(0, 0.5), outcome(1, 0.7), refused])
    left, price, notes = text.split("\n\n")
    for lines in (left.splitlines(), price.splitlines()):
        assert len({line.count("|") for line in lines}) == 1

    def cells(part: str) -> list[str]:
        row = next(line for line in part.splitlines() if line.startswith("| a:x=1 |"))
        return [cell.strip() for cell in row.strip("|").split("|")]

    assert cells(left)[:6] == ["a:x=1", "all", "2", "0.60 (0.50)", "logit lens", "0.25"]
    assert cells(price)[:6] == ["a:x=1", "all", "2", "-1.0", "-4.5", "1.28"]
    assert "| b | random | 0 | refused |" in left and "| b |" not in price
    assert notes == "- b on random: no place"


def test_the_pictures_are_the_same_bytes_twice_and_name_every_strategy() -> None:
    for draw in (standings, relearning):
        drawn = draw([outcome(0, 0.5), outcome(1, 0.7)])
        assert drawn == draw([outcome(0, 0.5), outcome(1, 0.7)])
        assert "a:x=1" in drawn
        ET.fromstring(drawn)
    assert "reference" in relearning([outcome(0, 0.5)])


def test_what_was_refused_alone_can_be_drawn() -> None:
    refused = [Outcome(entry=Entry(strategy="b"), given="d", refused="no place")]
    assert "refused" in table(refused)
    standings(refused)
    relearning(refused)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Forgetting in this process, and a list of what was run."""
    ran: list[str] = []

    def here(work, table, entry, sites, folder):  # type: ignore[no-untyped-def]
        ran.append(entry.strategy)
        return work(table, entry, sites, folder)

    monkeypatch.setattr(room, "_in_a_process", here)
    monkeypatch.setattr(room, "PROBES", ("answers", "kept-answers", "extraction-strength"))
    return ran


def test_what_is_done_is_not_done_again_and_a_refusal_is_an_outcome(
    quick: list[str], tmp_path: Path
) -> None:
    given = Table("lab:full", read_forget_set("lab:one-person"), "lab:reference", tmp_path)
    entries = [
        Entry(strategy="gradient-ascent", settings={"max_steps": "2"}),
        Entry(strategy="gradient-ascent", settings={"variant": "grad-diff", "retain": "none"}),
    ]
    first = list(contest(given, entries))
    assert first[0].equivalence is not None and first[0].tokens > 0
    assert first[0].figures["answers/forget"]["original"] == 1
    assert "retain" in first[1].refused and not first[1].figures
    assert len(quick) == 2
    assert list(contest(given, entries)) == first and len(quick) == 2
    again = [entries[0].model_copy(update={"seed": 1})]
    assert list(contest(given, again)) and len(quick) == 3


def test_a_later_command_adds_to_the_tables_of_the_folder(quick: list[str], tmp_path: Path) -> None:
    words = ["bench", "strategies", "lab:full", "lab:one-person", "--reference", "lab:reference"]
    words += ["-o", str(tmp_path), "--strategy"]
    for strategy in ("gradient-ascent:max_steps=1", "in-context"):
        done = CliRunner().invoke(cli, [*words, strategy])
        assert done.exit_code == 0, done.output
    assert quick == ["gradient-ascent", "in-context"]
    text = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert text.strip() in done.stdout
    assert text.count("| gradient-ascent:max_steps=1 | all | 1 |") == 2
    assert text.count("| in-context | all | 1 |") == 2
    for name in ("strategies.svg", "relearning.svg"):
        ET.fromstring((tmp_path / name).read_text(encoding="utf-8"))


def test_forgetting_in_a_process_of_its_own_gives_the_artifact(tmp_path: Path) -> None:
    given = Table("lab:full", read_forget_set("lab:one-person"), "lab:reference", tmp_path)
    entry = Entry(strategy="gradient-ascent", settings={"max_steps": "1"})
    peak = room._in_a_process(room.forget_into, given, entry, None, tmp_path / "made")
    assert peak > 0 and (tmp_path / "made" / "artifact.json").is_file()
