"""The whole way on the bundled lab by the command line, and a second opinion on what came out."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from unlearn.cli.main import cli

JUDGE = Path(__file__).parents[1] / "judge.py"

pytestmark = pytest.mark.slow


def unlearn(*words: object) -> int:
    return CliRunner().invoke(cli, [str(word) for word in words]).exit_code


def test_one_person_is_forgotten_and_a_judge_without_our_code_agrees(tmp_path: Path) -> None:
    lab, sites, artifact, merged, audit = (tmp_path / name for name in "lsame")
    full, reference = lab / "full", lab / "reference"
    one = lab / "forget_sets" / "one-person"
    assert unlearn("lab", "export", lab) == 0
    assert unlearn("locate", full, one, "-o", sites) == 0
    assert unlearn("forget", full, one, "--sites", sites, "-o", artifact) == 0
    assert unlearn("apply", full, artifact, "-o", merged) == 0
    # One person is too few to pass; nothing may fail.
    original = ("--original", full, "--reference", reference)
    assert unlearn("audit", artifact, one, *original, "-o", audit) == 3

    figures = json.loads((audit / "audit.json").read_text(encoding="utf-8"))["findings"]
    found = {f"{f['metric']}/{f['split']}": f["models"] for f in figures}
    for figure in ("extraction_strength/forget", "probability/forget"):
        models = found[figure]
        low, high = models["reference"]["low"], models["reference"]["high"]
        assert low <= models["unlearned"]["value"] <= high, figure
    for figure in ("answers/retain", "answers/neighbors"):
        models = found[figure]
        assert models["unlearned"]["value"] >= models["original"]["value"] - 0.02, figure

    assert "import unlearn" not in JUDGE.read_text("utf-8")
    judged = subprocess.run(
        [sys.executable, JUDGE, merged, full, reference, one], capture_output=True, check=False
    )
    assert judged.returncode == 0, judged.stdout
    assert json.loads(judged.stdout)["holds"]
