"""``unlearn request``: the whole life of a request on the command line, and its refusals."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from unlearn.cli.main import cli

Run = Callable[..., Result]
FAST = (
    *("--tier", "smoke", "--strategy", "gradient-ascent"),
    *("--set", "max_steps=2", "--set", "stop=budget", "--locator", "none", "-q"),
)


@pytest.fixture
def office(tmp_path: Path) -> Path:
    return tmp_path / "office"


@pytest.fixture
def call(run: Run, office: Path) -> Callable[..., object]:
    """Runs a command in the store and gives what ``--json`` prints."""

    def call(*words: object, codes: tuple[int, ...] = (0,)) -> object:
        result = run("request", *words, "--store", office, "--json")
        assert result.exit_code in codes, result.stderr
        return json.loads(result.stdout)

    return call


@pytest.fixture
def opened(call: Callable[..., dict], births: str, knowing: str) -> str:
    scope = ("--forget-set", births, "--model", knowing)
    return call("open", "--subject", "Ada Quill", *scope)["id"]


@pytest.fixture
def processed(
    call: Callable[..., dict], opened: str, other: str, tmp_path: Path
) -> tuple[str, Path]:
    call("approve", opened)
    out = tmp_path / "unlearned"
    made = call("process", opened, "--reference", other, "-o", out, *FAST, codes=(0, 1, 3))
    assert made["requests"][0]["id"] == opened
    return opened, out


def test_a_request_goes_the_whole_way(
    call: Callable[..., dict], processed: tuple[str, Path], run: Run, office: Path
) -> None:
    request, out = processed
    shown = call("show", request)
    events = [entry["event"] for entry in shown["history"]]
    assert events[:3] == ["received", "scope", "approve"]
    assert events[3:8] == ["locate", "measured", "plan", "unlearn", "attempted"]
    assert shown["state"] in ("audited", "retrain-scheduled")
    assert all(Path(path).is_file() for path in shown["evidence"])
    assert (shown["state"] == "audited") == (out / "unlearn.json").is_file()
    call("notify", request)
    assert call("close", request)["state"] == "closed"
    assert call("verify")["flaws"] == []
    assert run("request", "list", "--store", office).stdout.startswith(f"{request}  closed")


def test_the_evidence_says_what_the_ledger_says(
    call: Callable[..., dict], processed: tuple[str, Path], office: Path
) -> None:
    from hashlib import sha256

    request, _ = processed
    history = call("show", request)["history"]
    (attempt,) = [entry for entry in history if entry["event"] == "attempted"]
    audit = office / "evidence" / request / "attempt-1" / "audit.json"
    assert sha256(audit.read_bytes()).hexdigest() == attempt["details"]["audit"]
    document = json.loads(audit.read_text())
    assert document["verdict"] == attempt["details"]["verdict"]
    assert document["provenance"]["request"] == request
    assert document["forget_set"]["name"] == request


def test_the_answer_is_signed_and_drawn_for_each_reader(
    call: Callable[..., dict], processed: tuple[str, Path], run: Run, office: Path
) -> None:
    request, out = processed
    evidence = office / "evidence" / request / "attempt-1"
    names = {path.name for path in evidence.iterdir()}
    assert names >= {"audit.html", "audit.regulator.html", "audit.subject.html"}
    answered = call("show", request)["state"] == "audited"
    model = ("--model", out) if answered else ()
    key = ("--key", office / "keys" / "ledger.pem.pub")
    assert run("report", "verify", evidence, *key, *model).exit_code == 0
    if answered:
        (out / "config.json").write_text((out / "config.json").read_text() + " ")
        changed = run("report", "verify", evidence, *key, *model)
        assert changed.exit_code == 1 and "config.json" in changed.stdout


def test_processing_again_keeps_the_evidence_of_before(
    call: Callable[..., dict], processed: tuple[str, Path], other: str, office: Path, tmp_path: Path
) -> None:
    request, _ = processed
    evidence = office / "evidence" / request
    before = {path.name: path.read_bytes() for path in (evidence / "attempt-1").iterdir()}
    again = ("process", request, "--reference", other, "-o", tmp_path / "again", *FAST)
    call(*again, codes=(0, 1, 3))
    assert {path.name: path.read_bytes() for path in (evidence / "attempt-1").iterdir()} == before
    assert (evidence / "attempt-2" / "statement.dsse.json").is_file()
    answers = [e["details"] for e in call("show", request)["history"] if "base" in e["details"]]
    assert [details["attempt"] for details in answers] == [1, 2]


def test_a_subject_on_stdin_and_its_identifiers(office: Path) -> None:
    words = ["request", "open", "--store", str(office), "--subject", "-", "--json"]
    first = CliRunner().invoke(cli, words, input="Ada Quill\nada@example.org\n")
    assert first.exit_code == 0 and json.loads(first.stdout)["state"] == "received"
    again = CliRunner().invoke(cli, words, input="ADA@example.org\n")
    assert again.exit_code == 2 and "is about the same person" in again.stderr
    assert CliRunner().invoke(cli, words, input="\n").exit_code == 2


def test_due_requests_and_their_calendar(
    call: Callable[..., list], opened: str, tmp_path: Path
) -> None:
    from icalendar import Calendar

    assert call("list", "--due", "7d") == []
    file = tmp_path / "due.ics"
    (listed,) = call("list", "--due", "60d", "--calendar", file)
    assert listed["id"] == opened and 27 <= listed["days_left"] <= 31
    (event,) = Calendar.from_ical(file.read_bytes()).walk("VEVENT")
    assert str(event["dtstart"].dt) == listed["due"] and opened in event["uid"]
    assert b"Quill" not in file.read_bytes()


def test_an_earlier_request_is_audited_again_on_the_new_model(
    call: Callable[..., dict], births: str, knowing: str, other: str, tmp_path: Path
) -> None:
    ids = []
    for number, subject in enumerate(("Ada Quill", "Bo Fenn")):
        scope = ("--forget-set", births, "--model", knowing)
        request = call("open", "--subject", subject, *scope)["id"]
        call("approve", request)
        on = ("--on", tmp_path / "out-0") if number else ()
        words = ("--reference", other, "-o", tmp_path / f"out-{number}", *on)
        made = call("process", request, *words, *FAST, codes=(0, 1, 3))
        assert made["requests"][0]["state"] == "audited"
        ids.append(request)
    assert list(made["rechecked"]) == ids[:1]
    (scoped,) = call("show", ids[0])["scope"]
    assert [each["relation"] for each in scoped["derived"]] == ["unlearned", "unlearned"]
    assert call("show", ids[0])["history"][-1]["event"] == "rechecked"


def test_approved_requests_are_merged_into_one_run(
    call: Callable[..., dict], births: str, knowing: str, other: str, tmp_path: Path
) -> None:
    for subject in ("Ada Quill", "Bo Fenn"):
        scope = ("--forget-set", births, "--model", knowing)
        call("approve", call("open", "--subject", subject, *scope)["id"])
    words = ("--all", "--reference", other, "-o", tmp_path / "both")
    made = call("process", *words, *FAST, codes=(0, 1, 3))
    assert len(made["requests"]) == 2
    (place,) = {each["model_out"] for each in made["requests"]} - {""} or {""}
    assert not place or Path(place).parent == tmp_path / "both"
    assert call("process", *words, *FAST) == {
        "verdict": None,
        "exit_code": 0,
        "requests": [],
        "rechecked": {},
    }


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("approve", "0" * 16), "there is no request"),
        (("process", "-o", "x"), "give the ids of the requests to process, or --all"),
        (("list", "--due", "soon"), "is no number of days"),
        (("verify", "--key", "nowhere.pub"), "is not a public Ed25519 key"),
        (("verify", "--head", "nowhere.json"), "is no head of a ledger"),
        (("open", "--subject", "  "), "the subject is empty"),
        (("open", "--subject", "x", "--received", "2999-01-01"), "after today"),
        (("open", "--subject", "x", "--received", "tomorrow"), "is no date"),
        (("open", "--subject", "x", "--rules", "gpdr"), "did you mean 'gdpr'"),
        (("open", "--subject", "x", "--model", "m"), "belong together"),
        (("open", "--subject", "x", "--zone", "Mars"), "no time zone"),
    ],
)
def test_bad_input_is_one_line(
    refused: Callable[..., str], opened: str, office: Path, words: tuple[str, ...], why: str
) -> None:
    assert why in refused("request", *words, "--store", office)


def test_steps_out_of_turn_are_one_line(
    refused: Callable[..., str], opened: str, office: Path, knowing: str, tmp_path: Path
) -> None:
    store = ("--store", office)
    out = ("-o", tmp_path / "out")
    assert "approve it first" in refused("request", "process", opened, *out, *store, "-q")
    assert not (tmp_path / "out").exists()
    assert "needs its --reason" in refused("request", "deny", opened, *store)
    assert "has no outcome yet" in refused("request", "close", opened, *store)
    assert "holds no store" in refused("request", "list", "--store", tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_a_model_out_of_scope_is_refused(
    call: Callable[..., dict],
    refused: Callable[..., str],
    opened: str,
    other: str,
    office: Path,
    tmp_path: Path,
) -> None:
    call("approve", opened)
    words = ("request", "process", opened, "--store", office, "--on", other, "-o")
    assert "neither that nor registered" in refused(*words, tmp_path / "out", "-q")
    (tmp_path / "taken").mkdir()
    words = ("request", "process", opened, "--store", office, "-o", tmp_path / "taken", "-q")
    assert "exists; give a new folder" in refused(*words)


def test_verify_says_where_and_exits_with_1(
    call: Callable[..., dict], run: Run, opened: str, office: Path, tmp_path: Path
) -> None:
    import sqlite3

    exported = tmp_path / "ledger.jsonl"
    assert call("verify", "--export", exported)["entries"] == 2
    assert [json.loads(line)["seq"] for line in exported.read_text().splitlines()] == [1, 2]
    database = sqlite3.connect(office / "registry.sqlite")
    with database:
        database.execute("DROP TRIGGER ledger_no_UPDATE")
        database.execute("UPDATE ledger SET text = replace(text, 'gdpr', 'ccpa') WHERE seq = 1")
    database.close()
    found = run("request", "verify", "--store", office)
    assert found.exit_code == 1 and "entry 2: does not follow the entry before" in found.stdout


def test_the_overview_has_every_request_with_its_due_day_and_verdict(
    call: Callable[..., dict],
    processed: tuple[str, Path],
    run: Run,
    office: Path,
    tmp_path: Path,
) -> None:
    from datetime import date

    from unlearn.report.overview import OverviewRow

    waiting = call("open", "--subject", "Bo Fenn")["id"]
    page = tmp_path / "overview.html"
    made = run("report", "index", "--store", office, "-o", page)
    assert made.exit_code == 0, made.stderr
    text = page.read_text("utf-8")
    data = json.loads(text.split('id="overview">')[1].split("</script>")[0])
    rows = {row["id"]: OverviewRow.model_validate(row) for row in data}
    done, new = rows[processed[0]], rows[waiting]
    shown = call("show", processed[0])
    assert (done.state, done.verdict) == (shown["state"], shown["verdict"])
    assert (tmp_path / done.link).resolve().is_relative_to(office.resolve())
    assert done.model and done.audited
    assert (new.state, new.verdict, new.link) == ("received", None, "")
    assert done.due is not None and done.due > date.fromisoformat(shown["received"])
    assert "Quill" not in text and "Fenn" not in text


def test_a_model_that_answers_one_request_has_a_card_that_names_nobody(
    processed: tuple[str, Path],
) -> None:
    request, out = processed
    if not (out / "unlearn.json").is_file():
        pytest.skip("no attempt changed the weights and held")
    card = (out / "README.md").read_text("utf-8")
    assert "## Unlearning audit" in card
    assert request not in card and "Quill" not in card


def test_the_evidence_is_signed_with_the_stores_key_and_the_ledger_names_the_statement(
    call: Callable[..., dict], processed: tuple[str, Path], run: Run, office: Path
) -> None:
    from hashlib import sha256

    request, out = processed
    (signed,) = (office / "evidence" / request).glob("*/statement.dsse.json")
    named = [entry["details"].get("statement") for entry in call("show", request)["history"]]
    assert sha256(signed.read_bytes()).hexdigest() in named
    check = ("report", "verify", signed.parent, "--key", office / "keys" / "ledger.pem.pub")
    merged = (out / "unlearn.json").is_file()
    found = run(*check, *(("--model", out) if merged else ()))
    assert found.exit_code == 0, found.stdout
    assert "This audit is signed" in (signed.parent / "audit.html").read_text("utf-8")
    call("notify", request)
    call("close", request)
    assert run(*check).exit_code == 0
    (signed.parent / "audit.json").write_text("{}")
    assert run(*check).exit_code == 1
