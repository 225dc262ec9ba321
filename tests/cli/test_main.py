import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from unlearn import __version__
from unlearn.cli import main
from unlearn.cli.main import COMMANDS, Entry, cli
from unlearn.errors import InputError


def give(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Makes ``unlearn list`` raise."""

    @click.command()
    def failing() -> None:
        raise error

    monkeypatch.setattr(main.Entry, "load", lambda self: failing)


def test_the_command_line_imports_no_torch_before_a_command_runs() -> None:
    code = (
        "import sys, unlearn.cli.main as m; [entry.load() for entry in m.COMMANDS.values()];"
        "print(sorted({'torch', 'transformers', 'numpy', 'datasets'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_names_every_command_without_importing_it(
    run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Entry, "load", lambda self: pytest.fail("imported for the help"))
    result = run("--help")
    assert result.exit_code == 0
    assert all(f"\n  {name} " in result.stdout for name in COMMANDS)


def leaves_of(command: click.Command) -> Iterator[click.Command]:
    """The commands below a group, at any depth; of a command itself."""
    if not isinstance(command, click.Group):
        yield command
        return
    for below in command.commands.values():
        yield from leaves_of(below)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_takes_the_shared_options(name: str) -> None:
    for leaf in leaves_of(COMMANDS[name].load()):
        taken = {flag for parameter in leaf.params for flag in parameter.opts}
        assert {"--seed", "--json", "--device", "--dtype", "-q", "--quiet"} <= taken
        assert leaf.callback is not None and leaf.help


def test_the_version_is_printed(run: Callable[..., Result]) -> None:
    assert run("--version").stdout == f"unlearn {__version__}\n"


def test_python_m_unlearn_is_the_same_command_line() -> None:
    words = [sys.executable, "-m", "unlearn", "--version"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout == f"unlearn {__version__}\n"


def test_a_mistake_of_the_user_is_one_line_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str]
) -> None:
    give(monkeypatch, InputError("the card\nis torn"))
    assert refused("list") == "unlearn: error: the card is torn"


def test_a_bug_keeps_its_traceback(
    monkeypatch: pytest.MonkeyPatch, run: Callable[..., Result]
) -> None:
    give(monkeypatch, ZeroDivisionError("a bug"))
    result = run("list")
    assert isinstance(result.exception, ZeroDivisionError)


def test_a_bug_exits_with_70_and_not_with_the_code_of_a_failed_audit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    give(monkeypatch, ZeroDivisionError("a bug"))
    monkeypatch.setattr(sys, "argv", ["unlearn", "list"])
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 70
    out, err = capsys.readouterr()
    assert (out, err.splitlines()[-1]) == ("", "ZeroDivisionError: a bug")
    assert "Traceback" in err


def test_an_output_that_cannot_be_made_is_told_in_one_line(refused: Callable[..., str]) -> None:
    place = "/proc/unlearn-no-such/s.json"
    line = refused("locate", "lab:full", "lab:one-person", "-o", place)
    assert f"cannot write to {place}: No such file or directory" in line


def test_a_reader_that_left_is_no_failed_audit() -> None:
    words = f"{sys.executable} -m unlearn list probes --json | true; exit ${{PIPESTATUS[0]}}"
    for _ in range(3):
        done = subprocess.run(["bash", "-c", words], capture_output=True, text=True, check=False)
        assert done.returncode in (0, 141)
        assert done.stderr == ""


def test_ctrl_c_ends_with_130_and_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, run: Callable[..., Result]
) -> None:
    give(monkeypatch, KeyboardInterrupt())
    result = run("list")
    assert (result.exit_code, result.stdout, result.stderr) == (130, "", "unlearn: interrupted\n")


def test_a_full_disk_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str]
) -> None:
    give(monkeypatch, OSError(28, "No space left on device", "out/audit.json"))
    assert refused("list") == "unlearn: error: out/audit.json: No space left on device"


def test_a_full_disk_that_names_no_file_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str]
) -> None:
    give(monkeypatch, OSError(28, "No space left on device"))
    assert refused("list").startswith("unlearn: error: No space left on device; free some")


def test_an_os_error_that_is_no_disk_problem_is_a_bug(
    monkeypatch: pytest.MonkeyPatch, run: Callable[..., Result]
) -> None:
    give(monkeypatch, FileNotFoundError(2, "No such file", "template.html"))
    assert isinstance(run("list").exception, FileNotFoundError)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["lokate"], "lokate"),
        (["--verbose"], "--verbose"),
        (["locate", "lab:full", "lab:hazard"], "'-o'"),
        (["locate", "lab:full"], "FORGET_SET"),
        (["list", "spells"], "'spells' is not one of"),
        (["report", "x", "--format", "docx"], "'docx' is not one of"),
        (["audit", "m", "f", "-o", "d", "--tier", "deepest"], "'deepest' is not one of"),
        (["audit", "m", "f", "-o", "d", "--max-records", "0"], "0 is not in the range"),
        (["audit", "m", "f", "-o", "d", "--probes", ","], "names no probe"),
        (["forget", "m", "f", "-o", "d", "--set", "steps"], "'steps' is not of the form key=value"),
        (["forget", "m", "f", "-o", "d", "--set", "a=1", "--set", "a=2"], "'a' is given twice"),
        (["forget", "m", "f", "-o", "d", "--seed", "-1"], "-1 is not in the range"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    words: list[str], said: str, refused: Callable[..., str]
) -> None:
    assert said in refused(*words)


def test_a_usage_error_says_where_the_help_is(refused: Callable[..., str]) -> None:
    assert refused("list", "spells").endswith("See: unlearn list --help")


def test_no_words_at_all_show_the_help(run: Callable[..., Result]) -> None:
    result = run()
    assert result.exit_code == 2
    assert "Commands:" in result.stderr


def test_the_reference_in_docs_is_what_the_commands_say() -> None:
    root = Path(__file__).parents[2]
    code = "import runpy, sys; sys.stdout.write(runpy.run_path('docs/make_cli.py')['page']())"
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout == (root / "docs" / "cli.md").read_text(encoding="utf-8"), "run `make docs`"


def test_cli_runner_and_console_script_share_one_entry() -> None:
    assert CliRunner().invoke(cli, ["--version"]).exit_code == 0
    with pytest.raises(SystemExit) as ended, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["unlearn", "list", "spells"])
        main.main()
    assert ended.value.code == 2
