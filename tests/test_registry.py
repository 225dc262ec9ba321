import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from unlearn import registry
from unlearn.errors import UnknownNameError
from unlearn.registry import Registry


@pytest.fixture
def spells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry[Any]:
    """A registry of a package with one module, and no entry points."""
    package = tmp_path / "spell_package"
    package.mkdir()
    (package / "__init__.py").write_text("loaded = []\n")
    (package / "fog.py").write_text("from spell_package import loaded\nloaded.append('fog')\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("spell_package", "spell_package.fog"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return Registry("spell", "spell_package", "spell.entries")


def test_a_class_is_found_under_the_name_it_was_filed_under(spells: Registry[Any]) -> None:
    @spells.register("fog-bank")
    class Fog:
        pass

    assert spells.get("fog-bank") is Fog
    assert Fog.name == "fog-bank"  # type: ignore[attr-defined]
    assert spells.names() == ["fog-bank"]


def test_the_modules_of_the_package_are_imported_at_the_first_look_up_and_once(
    spells: Registry[Any],
) -> None:
    assert "spell_package" not in sys.modules
    assert spells.names() == spells.names() == []
    assert sys.modules["spell_package"].loaded == ["fog"]


def test_an_unknown_name_is_answered_with_the_nearest_and_all(spells: Registry[Any]) -> None:
    for name in ("rain", "fog-bank"):
        spells.register(name)(type(name, (), {}))
    with pytest.raises(UnknownNameError) as caught:
        spells.get("fog-bamk")
    expected = "there is no spell 'fog-bamk'. Did you mean 'fog-bank'? Known: fog-bank, rain"
    assert str(caught.value) == expected
    with pytest.raises(UnknownNameError, match=r"'xyz'\. Known"):
        spells.get("xyz")


def test_one_name_belongs_to_one_class(spells: Registry[Any]) -> None:
    class Fog:
        pass

    spells.register("fog")(Fog)
    spells.register("fog")(Fog)
    with pytest.raises(ValueError, match="spell 'fog' is registered twice"):
        spells.register("fog")(type("Other", (), {}))


def test_other_packages_add_theirs_by_entry_point(
    spells: Registry[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = EntryPoint("path", "pathlib:PurePosixPath", "spell.entries")
    entries = {"spell.entries": [entry]}
    found: Callable[..., Any] = lambda group: entries.get(group, [])  # noqa: E731
    monkeypatch.setattr(registry, "entry_points", found)
    monkeypatch.setattr(EntryPoint, "load", lambda self: type("Path", (), {}))
    assert spells.names() == ["path"]


@pytest.mark.parametrize("kind", ["strategies", "locators", "probes"])
def test_the_groups_of_entry_points_are_named_for_what_they_hold(kind: str) -> None:
    assert getattr(registry, kind).group == f"unlearn.{kind}"
