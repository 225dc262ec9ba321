"""The command line with a registry in PostgreSQL and a vault in a folder."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from unlearn.cli.main import cli


@pytest.fixture
def place(database: str | None, tmp_path: Path) -> list[str]:
    if database is None:
        pytest.skip("SQLite lies in the store's folder")
    return ["--store", database, "--folder", str(tmp_path / "office")]


def call(*words: str) -> Result:
    return CliRunner().invoke(cli, ["request", *words])


def test_requests_are_in_the_database_and_the_vault_in_the_folder(
    place: list[str], tmp_path: Path
) -> None:
    opened = call("open", "--subject", "Ada Quill", *place, "--json")
    request = json.loads(opened.stdout)["id"]
    assert call("deny", request, "--reason", "no data of theirs", *place).exit_code == 0
    assert call("list", *place).stdout.startswith(request)
    assert call("close", request, *place).exit_code == 0
    assert call("verify", *place).exit_code == 0
    assert {path.name for path in (tmp_path / "office").iterdir()} == {"vault", "head.json", "keys"}


def test_each_half_without_the_other_says_what_is_missing(place: list[str], tmp_path: Path) -> None:
    call("open", "--subject", "Ada Quill", *place)
    assert "give --folder" in call("list", *place[:2]).stderr
    assert "registry.sqlite is gone, or" in call("list", "--store", place[3]).stderr
    both = ("--store", place[3], "--folder", place[3])
    assert "--folder goes with a database URL" in call("list", *both).stderr
