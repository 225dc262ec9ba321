"""What is personal is in the vault and nowhere else, and after closing it is nowhere at all.

Canaries are planted in the forget set and in who asks. The whole life of a request runs as a user
runs it, in processes of their own with their own home and temporary folder; every byte that these
leave or print is searched. Then the same with a failure at every place where one can happen.
"""

import base64
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.deletion import canaries
from unlearn.cli.main import cli
from unlearn.errors import InputError

FAST = (
    *("--tier", "smoke", "--strategy", "gradient-ascent", "--strategy", "in-context"),
    *("--locator", "none"),
)
FACTS, MODEL_OUT = "facts", "out"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with the forget set, a home and a temporary folder, all else empty."""
    canaries.planted().write(tmp_path / FACTS)
    for name in ("home", "tmp"):
        (tmp_path / name).mkdir()
    return tmp_path


def written(place: Path) -> dict[str, list[str]]:
    """Where canaries are, but for the forget set that the user gave."""
    found = canaries.found_under([place])
    return {path: kinds for path, kinds in found.items() if f"/{FACTS}" not in path}


def test_the_whole_life_as_a_user_runs_it(place: Path, knowing: str, other: str) -> None:
    environment = {
        **os.environ,
        "HOME": str(place / "home"),
        "TMPDIR": str(place / "tmp"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
    }
    titles: list[bytes] = []

    def run(*words: object, stdin: str = "", codes: tuple[int, ...] = (0,)) -> str:
        command = [sys.executable, "-m", "unlearn", "request", *map(str, words)]
        process = subprocess.Popen(
            [*command, "--store", "office"],
            cwd=place,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        titles.append(Path(f"/proc/{process.pid}/cmdline").read_bytes() if stdin else b"")
        out, err = process.communicate(stdin)
        assert process.returncode in codes, err
        assert canaries.found_in((out + err).encode()) == []
        return out

    who = f"{canaries.SUBJECT}\n{canaries.IDENTIFIER}\n"
    scope = ("--forget-set", FACTS, "--model", knowing)
    request = run("open", "--subject", "-", *scope, stdin=who).split()[0]
    run("open", "--subject", "-", stdin=who, codes=(2,))
    run("approve", request, "--reason", f"said {canaries.SUBJECT}", codes=(2,))
    run("approve", request)
    run("process", request, "--reference", other, "-o", MODEL_OUT, *FAST, codes=(0, 1, 3))
    run("show", request, "--json")
    run("list", "--calendar", "due.ics")
    assert written(place) == {} and canaries.found_in(b"".join(titles)) == []
    run("close", request)
    run("verify", "--export", "ledger.jsonl")
    assert written(place) == {} and list((place / "office" / "vault").iterdir()) == []


def test_a_name_on_the_command_line_is_hidden_from_the_list_of_processes(place: Path) -> None:
    code = (
        "import sys; from unlearn.cli.office import hide_arguments; hide_arguments();"
        "print(open('/proc/self/cmdline').read())"
    )
    command = [sys.executable, "-c", code, "--subject", canaries.SUBJECT]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "unlearn request" in shown and "Quibble" not in shown


def test_the_search_finds_what_is_not_protected(place: Path) -> None:
    (found,) = [
        set(kinds) for path, kinds in canaries.found_under([place]).items() if "forget.j" in path
    ]
    assert found >= {"subject", "id", "prompt", "answer", "paraphrase", "alternative"}
    answer = canaries.CANARIES["answer"]
    for spelled in (
        answer.encode("utf-16-le"),
        base64.b64encode(b"xy" + answer.encode() + b"z"),
        answer.upper().encode(),
        answer.encode().hex().encode(),
    ):
        assert canaries.found_in(b"..." + spelled + b"...") == ["answer"]


def failing(error: Exception) -> Callable[..., object]:
    def fail(*args: object, **kwargs: object) -> object:
        raise error

    return fail


PLACES = (
    "unlearn.deletion.processing.look_at",
    "unlearn.deletion.workflow.forget",
    "unlearn.deletion.workflow.audit",
    "unlearn.deletion.evidence.report",
    "unlearn.deletion.processing.write_merged",
    "unlearn.deletion.registry.Change.record",
    "unlearn.deletion.registry.Change.update",
    "unlearn.deletion.registry.Change.register",
    "unlearn.deletion.vault.Vault.get",
    "unlearn.atomic_folder.sync",
)


@pytest.fixture
def steps(place: Path, knowing: str, other: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[list]:
    monkeypatch.chdir(place)
    monkeypatch.setenv("TMPDIR", str(place / "tmp"))
    scope = ("--forget-set", FACTS, "--model", knowing)
    yield [
        ("open", "--subject", canaries.SUBJECT, "--identifier", canaries.IDENTIFIER, *scope),
        ("approve", "ID"),
        ("process", "ID", "--reference", other, "-o", MODEL_OUT, *FAST),
        ("notify", "ID"),
        ("close", "ID"),
    ]


REFUSED, FULL = InputError("no"), OSError(28, "No space left on device")


@pytest.mark.parametrize(
    ("where", "error"),
    [(where, REFUSED) for where in PLACES[:-1]] + [(where, FULL) for where in PLACES],
)
def test_a_failure_anywhere_leaves_no_canary_and_can_be_got_over(
    steps: list, place: Path, monkeypatch: pytest.MonkeyPatch, where: str, error: Exception
) -> None:
    request, said, failures = "", "", 0
    for step in steps:
        words = ["request", *(request if word == "ID" else word for word in step)]
        words += ["--store", "office"]
        with monkeypatch.context() as broken:
            broken.setattr(where, failing(error))
            failed = CliRunner().invoke(cli, words)
        said += failed.output + repr(failed.exception)
        if failed.exit_code not in (0, 1, 3) or failed.exception is error:
            failed = CliRunner().invoke(cli, words)
            said += failed.output
            failures += 1
        assert failed.exit_code in (0, 1, 3), failed.output
        request = request or failed.stdout.split()[0]
        # What a person is called by stays inside, whatever goes wrong.
        assert written(place) == {}
    assert failures and canaries.found_in(said.encode()) == []
    checked = CliRunner().invoke(cli, ["request", "verify", "--store", "office"])
    assert checked.exit_code == 0, checked.output
