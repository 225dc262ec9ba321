"""An audit says where the artifact is not known to be of the forget set it is audited on."""

import json

import pytest
from click.testing import CliRunner

from unlearn.cli import audited as command
from unlearn.cli.main import cli


class Kept:
    """An artifact that changes nothing; its key says what it was made for."""

    limits = ()

    def __init__(self, key, ours):
        self.forget_set_key, self.ours = key, ours

    def concerns(self, digest):
        return self.ours

    def apply(self, base):
        return base


@pytest.mark.parametrize(
    ("key", "ours", "said"),
    [(b"k", True, None), (b"k", False, "another forget set"), (None, False, "its key is gone")],
)
def test_an_artifact_not_known_to_be_of_the_set_is_named_first_among_the_limits(
    key, ours, said, make_set, full, reference, monkeypatch, tmp_path
):
    monkeypatch.setattr(command, "is_artifact", lambda source: True)
    monkeypatch.setattr(command, "read_artifact", lambda source: Kept(key, ours))
    monkeypatch.setattr(command, "read_base", lambda *given: full)
    monkeypatch.setattr(command, "read_model", lambda *given: reference)
    monkeypatch.setattr("unlearn.cli.audit.read_forget_set", lambda source: make_set())
    monkeypatch.setattr("unlearn.deletion.workflow.provenance_of", lambda artifact: {})
    monkeypatch.setattr("unlearn.deletion.workflow.cost_of", lambda artifact: {})
    monkeypatch.setattr("unlearn.deletion.workflow.sites_of", lambda artifact: None)
    monkeypatch.setattr("unlearn.deletion.workflow.strengths_of", lambda artifact: ())
    words = ["audit", "made", "set", "--reference", "r", "-o", str(tmp_path / "out"), "--json"]
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 1, result.output
    limits = json.loads(result.stdout)["limits"]
    if said is None:
        assert not any("The artifact" in limit for limit in limits)
    else:
        assert limits[0].startswith("The artifact was made for") and said in limits[0]
