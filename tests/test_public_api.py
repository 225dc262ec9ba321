import importlib
import inspect
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import unlearn


def run(code: str) -> str:
    words = [sys.executable, "-c", code]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


def test_the_public_names_are_few_sorted_and_there() -> None:
    assert list(unlearn.__all__) == sorted(unlearn.__all__)
    assert len(unlearn.__all__) <= 15
    for name in unlearn.__all__:
        assert getattr(unlearn, name) is not None
    assert set(unlearn.__all__) <= set(dir(unlearn))


def test_every_public_class_and_function_says_what_it_is() -> None:
    for name in unlearn.__all__:
        if name != "__version__":
            assert inspect.getdoc(getattr(unlearn, name)), name


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'unlearn' has no attribute 'erase'"):
        unlearn.erase  # noqa: B018


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, unlearn; unlearn.Record, unlearn.Verdict; print('torch' in sys.modules)"
    assert run(code) == "False"


def test_drawing_a_report_needs_no_torch() -> None:
    code = "import sys, unlearn; unlearn.report.read; print('torch' in sys.modules)"
    assert run(code) == "False"


@pytest.mark.parametrize(
    "first", ["", "import unlearn.report;", "from unlearn.report import read;"]
)
def test_a_package_is_called_whatever_was_imported_before(first: str) -> None:
    code = (
        f"{first}\nimport unlearn\nfrom unlearn import report\nassert unlearn.report is report\n"
        "try: report()\nexcept TypeError as error: print(error)"
    )
    assert run(code).startswith("report() missing")


@pytest.mark.parametrize("name", ["audit", "locate", "report"])
def test_a_package_is_called_like_the_function_of_its_name(name: str) -> None:
    package = getattr(unlearn, name)
    assert package is importlib.import_module(f"unlearn.{name}")
    # Only the right function complains in its own name.
    with pytest.raises(TypeError, match=rf"^{name}\(\) missing"):
        package()


@pytest.mark.parametrize("name", ["audit", "locate", "report"])
def test_a_callable_package_shows_the_signature_of_its_function(name: str) -> None:
    package = getattr(unlearn, name)
    function = getattr(package, name)
    assert inspect.signature(package) == inspect.signature(function)
    assert function.__doc__


def test_load_knows_the_bundled_models() -> None:
    with pytest.raises(unlearn.UnlearnError, match="lab:reference"):
        unlearn.load("lab:fool")


def test_load_takes_what_the_class_takes() -> None:
    loader = inspect.signature(unlearn.LanguageModel.load).parameters
    here = inspect.signature(unlearn.load).parameters
    assert {name: p.default for name, p in here.items()} == {
        name: p.default for name, p in loader.items()
    }


def test_the_version_is_the_same_everywhere() -> None:
    root = Path(__file__).parents[1]
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    assert project["version"] == unlearn.__version__
    assert f"## [{unlearn.__version__}]" in (root / "CHANGELOG.md").read_text()


def test_the_console_script_exists() -> None:
    root = Path(__file__).parents[1]
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    module, function = project["scripts"]["unlearn"].split(":")
    assert callable(getattr(importlib.import_module(module), function))
