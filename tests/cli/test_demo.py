import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from unlearn.cli import demo as command
from unlearn.cli.summary import summary
from unlearn.types import AuditResult, Claim, Verdict

Run = Callable[..., Result]


@pytest.fixture(autouse=True)
def small_lab(monkeypatch: pytest.MonkeyPatch, knowing: str, other: str, births: str) -> None:
    monkeypatch.setattr(command, "MODEL", knowing)
    monkeypatch.setattr(command, "REFERENCE", other)
    monkeypatch.setattr(command, "FORGET_SET", births)
    # The default reads what a model knows, and this one has learned nothing.
    monkeypatch.setattr(command, "DEFAULT_LOCATOR", "gradient-contrast")


def judged(result: AuditResult, *verdicts: Verdict) -> AuditResult:
    """The same audit with other claims."""
    claims = tuple(
        Claim(id=f"c{n}", statement="A claim.", verdict=v, reason="Because.", findings=())
        for n, v in enumerate(verdicts)
    )
    return result.model_copy(update={"claims": claims, "verdict": verdicts[0]})


def verdict_of_audits(monkeypatch: pytest.MonkeyPatch, *verdicts: Verdict) -> None:
    """Makes every audit of the workflow end with these claims, the first one as the whole."""
    from unlearn.deletion import workflow

    real = workflow.audit
    monkeypatch.setattr(workflow, "audit", lambda *a, **k: judged(real(*a, **k), *verdicts))


def test_the_demo_leaves_the_evidence_of_a_whole_request(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "demo"
    result = run("demo", "--quick", "-o", out, "--json")
    document = json.loads(result.stdout)
    assert document == json.loads((out / "demo.json").read_text())
    assert result.exit_code == document["exit_code"] == Verdict(document["verdict"]).exit_code
    assert document["seconds"] > 0
    written = Path(document["report"])
    audit = AuditResult.model_validate_json((written.parent / "audit.json").read_bytes())
    assert written.read_text(encoding="utf-8").startswith("<!")
    assert document["verdicts"] == {claim.id: str(claim.verdict) for claim in audit.claims}
    request = json.loads((written.parent / "request.json").read_text())
    assert audit.provenance["request"] == request["id"]
    assert (written.parent / "artifact" / "artifact.json").is_file()
    assert (written.parent / "sites.json").is_file()


@pytest.mark.parametrize(
    ("verdict", "code"),
    [
        (Verdict.PASS, 0),
        (Verdict.FAIL, 1),
        (Verdict.INCONCLUSIVE, 3),
        (Verdict.CONFOUNDED, 3),
        (Verdict.NOT_RUN, 3),
    ],
)
def test_print_file_and_exit_code_agree_on_the_verdict(
    verdict: Verdict, code: int, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdict_of_audits(monkeypatch, verdict)
    result = run("demo", "-o", tmp_path / "demo")
    document = json.loads((tmp_path / "demo" / "demo.json").read_text())
    assert result.exit_code == document["exit_code"] == code
    assert document["verdict"] == verdict
    assert f"verdict {verdict} " in result.stdout
    assert document["report"] in result.stdout


def test_the_demo_ends_with_the_worst_verdict_of_several_strategies(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from unlearn.deletion import workflow
    from unlearn.registry import strategies

    class Twin(strategies.get("gradient-ascent")):  # type: ignore[misc]
        pass

    monkeypatch.setitem(strategies._classes, "twin", Twin)
    ends = iter([(Verdict.PASS, Verdict.PASS), (Verdict.FAIL, Verdict.NOT_RUN)])
    real = workflow.audit
    monkeypatch.setattr(workflow, "audit", lambda *a, **k: judged(real(*a, **k), *next(ends)))
    words = ["--strategy", "gradient-ascent", "--strategy", "twin", "--json"]
    result = run("demo", "-o", tmp_path / "demo", *words)
    document = json.loads(result.stdout)
    assert [run["verdict"] for run in document["runs"]] == ["PASS", "FAIL"]
    assert (document["verdict"], result.exit_code) == ("FAIL", 1)
    assert document["verdicts"] == {"c0": "FAIL", "c1": "NOT RUN"}


def test_a_second_demo_replaces_the_first(run: Run, tmp_path: Path) -> None:
    for _ in range(2):
        assert run("demo", "-o", tmp_path / "demo", "-q").exit_code in (0, 1, 3)
    assert sorted(path.name for path in (tmp_path / "demo").iterdir()) == ["demo.json", "runs"]


def test_progress_stays_off_stdout_and_quiet_silences_it(run: Run, tmp_path: Path) -> None:
    loud = run("demo", "-o", tmp_path / "loud", "--json")
    assert json.loads(loud.stdout)
    assert "must forget" in loud.stderr
    assert run("demo", "-o", tmp_path / "quiet", "--json", "-q").stderr == ""


def test_the_summary_shows_figures_claims_and_verdict(run: Run, tmp_path: Path) -> None:
    run("demo", "-o", tmp_path / "demo")
    (path,) = (tmp_path / "demo").rglob("audit.json")
    result = AuditResult.model_validate_json(path.read_bytes())
    lines = summary(result).splitlines()
    assert "original" in lines[1] and "unlearned" in lines[1] and "reference" in lines[1]
    for finding in result.findings:
        assert any(line.startswith(f"{finding.metric}/{finding.split} ") for line in lines)
    for claim in result.claims:
        assert any(line.startswith(claim.verdict) and claim.statement in line for line in lines)
    assert lines[-1] == f"verdict {result.verdict} · label {result.label}"
    assert max(map(len, lines[: len(result.findings) + 2])) <= 110


def test_a_demo_is_replaced_by_the_next_one_and_spares_the_runs_of_others(
    run: Run, tmp_path: Path
) -> None:
    first = run("demo", "--quick", "-o", tmp_path)
    assert run("demo", "--quick", "-o", tmp_path).exit_code == first.exit_code != 2
    mine = tmp_path / "runs" / "mine" / "audit.json"
    mine.parent.mkdir()
    mine.write_text("mine")
    assert run("demo", "--quick", "-o", tmp_path).exit_code == 2
    assert run("demo", "--quick", "-o", tmp_path, "--force").exit_code == first.exit_code
    assert mine.read_text() == "mine"
