"""The rules of who may import whom, read from the source and not from what happens to run."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "unlearn"

RANKS = {
    "types": 0,
    "errors": 0,
    "registry": 0,
    "forget_set": 1,
    "artifact": 1,
    "artifact_manifest": 1,
    "adapter": 1,
    "inference_policy": 1,
    "patch_neurons": 1,
    "sealing": 1,
    "signing": 1,
    "atomic_folder": 1,
    "journal": 1,
    "csv_records": 2,
    "documents": 2,
    "merged": 1,
    "migrations": 1,
    "model": 1,
    "statistics": 1,
    "locate": 2,
    "strategies": 2,
    "probes": 2,
    "verdicts": 3,
    "audit": 4,
    "report": 5,
    "deletion": 6,
    "lab": 7,
    "bench": 7,
    "cli": 8,
}
TOP = 9
"""``unlearn/__init__.py`` and ``__main__.py``: they may import everything, and hold no work."""

APART = {"audit": {"locate", "strategies"}}
"""Lower rooms that a room may not import: the auditor never leans on what it audits."""

ANYWHERE = {"unlearn.__version__"}
HEAVY = {"torch", "transformers", "peft", "accelerate", "datasets", "safetensors"}
WITHOUT_TORCH = {
    "types",
    "errors",
    "registry",
    "statistics",
    "report",
    "cli",
    "__init__",
    "__main__",
}


class Import(NamedTuple):
    name: str
    """The full name, for example ``unlearn.types.Record``."""
    line: int
    at_module_level: bool
    for_types_only: bool


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room_of(name: str) -> str:
    """``audit`` of ``unlearn.statistics.clusters``; the empty string of ``unlearn`` itself."""
    return name.split(".")[1] if "." in name else ""


def room_of_file(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[0]


def imports_of(source: str) -> Iterator[Import]:
    yield from _walk(ast.parse(source), True, False)


def _walk(node: ast.AST, top: bool, types_only: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(alias.name, child.lineno, top, types_only)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"line {child.lineno}: relative imports are not used here"
            for alias in child.names:
                yield Import(f"{child.module}.{alias.name}", child.lineno, top, types_only)
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            yield from _walk(ast.Module(child.body, []), top, True)
            yield from _walk(ast.Module(child.orelse, []), top, types_only)
        else:
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _walk(child, top and not inside, types_only)


def breaches(room: str, source: str) -> list[str]:
    """What in a module of ``room`` imports what it must not."""
    rank = RANKS.get(room, TOP)
    found = []
    for item in imports_of(source):
        if not (item.name == "unlearn" or item.name.startswith("unlearn.")):
            if (
                item.name.split(".")[0] in HEAVY
                and room in WITHOUT_TORCH
                and item.at_module_level
                and not item.for_types_only
            ):
                found.append(f"line {item.line}: {item.name} at module level")
            continue
        other = room_of(item.name)
        if other == room or item.name in ANYWHERE:
            continue
        if item.name == "unlearn" and rank > 0:
            continue
        if other in APART.get(room, ()):
            found.append(f"line {item.line}: {item.name} is audited by {room}")
        elif other not in RANKS or (RANKS[other] >= rank and not (rank == RANKS[other] in (0, 1))):
            found.append(f"line {item.line}: {item.name} is not below {room}")
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_what_is_below_it(path: Path) -> None:
    room = room_of_file(path)
    assert room in RANKS or room in {"__init__", "__main__"}, f"{room} has no rank yet"
    assert breaches(room, path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("audit", "from unlearn.strategies import forget"),
        ("locate", "import unlearn.probes.probe"),
        ("strategies", "def f():\n    from unlearn.locate import locate"),
        ("model", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import unlearn.audit"),
        ("types", "import torch"),
        ("report", "from torch import nn"),
        ("report", "from unlearn.deletion.request import DeletionRequest"),
        ("errors", "import unlearn"),
        ("audit", "from unlearn import forget"),
        ("lab", "from unlearn.cli.main import cli"),
        ("cli", "if True:\n    import transformers"),
    ],
)
def test_the_check_finds_every_kind_of_breach(room: str, source: str) -> None:
    assert len(breaches(room, source)) == 1


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("cli", "def f():\n    import torch\n    from unlearn.lab import bundled"),
        ("report", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch"),
        ("audit", "from unlearn.probes.probe import Probe\nfrom unlearn import registry"),
        ("audit", "import unlearn\nfrom unlearn import __version__"),
        ("artifact", "from unlearn.model.language_model import LanguageModel"),
    ],
)
def test_the_check_lets_pass_what_is_allowed(room: str, source: str) -> None:
    assert breaches(room, source) == []


def test_no_folder_lies_below_the_second_level() -> None:
    deep = [path for path in modules() if len(path.relative_to(PACKAGE).parts) > 2]
    assert deep == []


def test_no_module_has_a_name_that_says_nothing() -> None:
    names = {path.stem for path in modules()}
    assert not names & {"utils", "util", "helpers", "common", "misc"}


def test_no_planned_module_is_empty() -> None:
    assert [path for path in modules() if not path.read_text(encoding="utf-8").strip()] == []


def test_functions_and_files_are_short() -> None:
    for path in sorted(PACKAGE.rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        assert source.count("\n") <= 400, path
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                lines = node.end_lineno - body[0].lineno + 1 if body else 0
                assert lines <= 40, f"{path}: {node.name} has {lines} lines"


def test_the_readme_names_every_module() -> None:
    page = ROOT / "README.md"
    if not page.exists():
        pytest.skip("there is no README.md yet")
    readme = page.read_text(encoding="utf-8")
    tree = re.search(r"```text\nunlearn/\n(.*?)```", readme, re.DOTALL)
    assert tree, "README.md needs the tree, in a ```text block that starts with unlearn/"
    named = set(re.findall(r"([\w-]+\.py)\b", tree[1])) | set(re.findall(r"(\w+)/", tree[1]))
    files = [path for path in modules() if path.name != "__init__.py"]
    folders = {path.parent.name for path in files} - {"unlearn"}
    assert ({path.name for path in files} | folders) - named == set()
