import io
import json

import pytest

from unlearn.cli.console import PlainProgress, Remaining, emit, working
from unlearn.cli.options import Options

LOUD = Options(seed=0, json=False, device="cpu", dtype="float32", quiet=False)
QUIET = Options(seed=0, json=True, device="cpu", dtype="float32", quiet=True)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_plain_progress_writes_the_end_of_each_piece_and_a_line_now_and_then() -> None:
    clock, stream = Clock(), io.StringIO()
    progress = PlainProgress(stream, clock)
    for second in range(12):
        clock.now = second
        progress("scoring", second / 100)
    progress("scoring", 1.0)
    progress("scoring", 1.0)
    progress("judging", 1.0)
    assert stream.getvalue().splitlines() == [
        "scoring: 5%, about 95 s left",
        "scoring: 10%, about 90 s left",
        "scoring: 100%",
        "judging: 100%",
    ]


def test_a_fraction_out_of_range_is_cut() -> None:
    stream = io.StringIO()
    PlainProgress(stream)("scoring", 1.7)
    assert stream.getvalue() == "scoring: 100%\n"


def test_the_time_left_begins_anew_with_each_piece_of_work() -> None:
    clock = Clock()
    remaining = Remaining(clock)
    said = []
    for now, fraction in ((2, 0.5), (100, 0.5), (110, 0.1), (120, 0.2), (130, 1.0)):
        clock.now = now
        said.append(remaining.left(fraction))
    assert said == ["", ", about 2 min left", "", ", about 40 s left", ""]


def test_what_a_library_prints_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with working(LOUD) as progress:
        print("advice from a library")
        progress("scoring", 1.0)
    emit(LOUD, {}, "the result")
    captured = capsys.readouterr()
    assert captured.out == "the result\n"
    assert captured.err == "advice from a library\nscoring: 100%\n"


def test_quiet_progress_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with working(QUIET) as progress:
        progress("scoring", 1.0)
    assert capsys.readouterr() == ("", "")


def test_on_a_terminal_progress_is_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stderr", terminal)
    with working(LOUD) as progress:
        progress("scoring [red]", 0.5)
    assert "scoring [red]" in terminal.getvalue()
    assert "50%" in terminal.getvalue()


def test_json_is_one_document_with_its_letters_as_they_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    emit(QUIET, {"name": "Žofie"}, "text that nobody sees")
    out = capsys.readouterr().out
    assert json.loads(out) == {"name": "Žofie"}
    assert "Žofie" in out


def test_json_never_holds_a_nan() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        emit(QUIET, float("nan"), "")
