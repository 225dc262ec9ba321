"""The examples of CONTRIBUTING.md are complete: each runs from the command line."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import Result

from unlearn import registry
from unlearn.types import Sites

Run = Callable[..., Result]
PAGE = Path(__file__).parents[2] / "CONTRIBUTING.md"
REGISTRIES = (registry.strategies, registry.locators, registry.probes)


@pytest.fixture(autouse=True)
def examples() -> Iterator[None]:
    """Runs the page's Python as if each block were a module, and forgets what that registered."""
    before = [(known, known.names()) for known in REGISTRIES]
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    for number, block in enumerate(blocks):
        exec(compile(block, f"{PAGE.name}, example {number}", "exec"), {"__name__": "example"})
    yield
    for known, names in before:
        for name in set(known.names()) - set(names):
            del known._classes[name]


def test_the_examples_are_one_of_each_kind(run: Run) -> None:
    for kind, name in (
        ("strategies", "fade"),
        ("locators", "last-layers"),
        ("probes", "first-token"),
    ):
        assert name in [row["name"] for row in json.loads(run("list", kind, "--json").stdout)]


def test_the_locator_finds_the_last_layer(
    run: Run, knowing: str, births: str, tmp_path: Path
) -> None:
    result = run("locate", knowing, births, "-o", tmp_path / "s.json", "--method", "last-layers")
    assert result.exit_code == 0, result.stderr
    assert Sites.model_validate_json((tmp_path / "s.json").read_text()).layers == (1,)


def test_the_strategy_obeys_sites_and_its_setting(
    run: Run, knowing: str, births: str, tmp_path: Path
) -> None:
    sites, out = tmp_path / "s.json", tmp_path / "out"
    run("locate", knowing, births, "-o", sites, "--method", "random", "--set", "top=0.2")
    words = ["--strategy", "fade", "--sites", sites, "--set", "keep=0.5", "--json"]
    result = run("forget", knowing, births, "-o", out, *words)
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["provenance"]["settings"] == {"keep": 0.5}


def test_the_strategy_refuses_what_it_does_not_honour(
    run: Run, knowing: str, births: str, tmp_path: Path
) -> None:
    run("locate", knowing, births, "-o", tmp_path / "s.json", "--method", "last-layers")
    words = ["--strategy", "fade", "--sites", tmp_path / "s.json"]
    result = run("forget", knowing, births, "-o", tmp_path / "out", *words)
    assert result.exit_code == 2
    assert "does not honour layers" in result.stderr


def test_the_probe_measures_every_forget_record(
    run: Run, knowing: str, births: str, tmp_path: Path
) -> None:
    words = ["--probes", "first-token", "--json"]
    result = run("audit", knowing, births, "-o", tmp_path / "out", *words)
    (finding,) = json.loads(result.stdout)["findings"]
    assert finding["key"] == "first_token/forget"
    assert finding["models"]["unlearned"]["n"] == 2
