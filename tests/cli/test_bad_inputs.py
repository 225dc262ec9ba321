import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from unlearn.forget_set import ForgetSet

Refused = Callable[..., str]


def test_a_model_that_does_not_exist(births: str, tmp_path: Path, refused: Refused) -> None:
    line = refused("forget", tmp_path / "no-model", births, "-o", tmp_path / "out")
    assert "no-model" in line
    assert not (tmp_path / "out").exists()


def test_a_bundled_model_that_does_not_exist(births: str, tmp_path: Path, refused: Refused) -> None:
    assert "lab:reference" in refused("audit", "lab:fool", births, "-o", tmp_path / "out")


def test_a_folder_that_is_no_model(births: str, tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "empty").mkdir()
    line = refused("audit", tmp_path / "empty", births, "-o", tmp_path / "out")
    assert "config.json" in line


def test_a_device_that_does_not_exist(
    knowing: str, births: str, tmp_path: Path, refused: Refused
) -> None:
    line = refused("audit", knowing, births, "-o", tmp_path / "out", "--device", "abacus")
    assert "abacus" in line


def test_a_forget_set_that_does_not_exist(knowing: str, tmp_path: Path, refused: Refused) -> None:
    line = refused("forget", knowing, tmp_path / "no-set", "-o", tmp_path / "out")
    assert "no-set does not exist" in line


def test_a_bundled_forget_set_that_does_not_exist(
    knowing: str, tmp_path: Path, refused: Refused
) -> None:
    line = refused("forget", knowing, "lab:two-people", "-o", tmp_path / "out")
    assert "lab:ten-people" in line


def test_a_malformed_forget_set_is_named_by_file_and_line_but_never_quoted(
    knowing: str, births: str, tmp_path: Path, refused: Refused
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    good = (Path(births) / "forget.jsonl").read_text()
    (broken / "card.toml").write_text('name = "broken"\ndescription = "One bad line."\n')
    (broken / "forget.jsonl").write_text(good + '{"id": "x", "answer": "Sorrel Lane"}\n')
    line = refused("locate", knowing, broken, "-o", tmp_path / "sites.json")
    assert "forget.jsonl:3" in line
    assert "Sorrel" not in line


def test_an_unknown_strategy_names_the_nearest(
    knowing: str, births: str, tmp_path: Path, refused: Refused
) -> None:
    words = ["-o", tmp_path / "out", "--strategy", "gradient-accent"]
    assert "Did you mean 'gradient-ascent'?" in refused("forget", knowing, births, *words)


def test_an_unknown_locator_names_the_nearest(
    knowing: str, births: str, tmp_path: Path, refused: Refused
) -> None:
    words = ["-o", tmp_path / "sites.json", "--method", "gradient-contract"]
    assert "Did you mean 'gradient-contrast'?" in refused("locate", knowing, births, *words)


def test_an_unknown_probe_names_the_nearest(
    knowing: str, births: str, tmp_path: Path, refused: Refused
) -> None:
    words = ["-o", tmp_path / "out", "--probes", "probabilty"]
    assert "Did you mean 'probability'?" in refused("audit", knowing, births, *words)


def test_an_unknown_setting_names_the_nearest(
    knowing: str, births: str, tmp_path: Path, refused: Refused
) -> None:
    words = ["-o", tmp_path / "out", "--set", "max_step=3"]
    assert "Did you mean 'max_steps'?" in refused("forget", knowing, births, *words)


def test_a_setting_out_of_range_is_named_with_its_value(
    knowing: str, births: str, tmp_path: Path, refused: Refused
) -> None:
    words = ["-o", tmp_path / "out", "--set", "max_steps=many"]
    assert "max_steps='many'" in refused("forget", knowing, births, *words)


def test_a_foreign_output_folder_is_refused_before_any_work(
    tmp_path: Path, refused: Refused
) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    for words in (
        ["forget", "no-model", "no-set"],
        ["apply", "no-model", "no-artifact"],
        ["audit", "no-model", "no-set"],
        ["demo"],
        ["lab", "train"],
    ):
        assert "thesis.tex" in refused(*words, "-o", tmp_path)
    assert "thesis.tex" in refused("lab", "export", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_foreign_sites_file_is_refused_before_any_work(tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "sites.json").write_text('{"mine": true}')
    line = refused("locate", "no-model", "no-set", "-o", tmp_path / "sites.json")
    assert "--force" in line
    assert json.loads((tmp_path / "sites.json").read_text()) == {"mine": True}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "sites.json is not a sites file: not valid JSON: EOF"),
        ('{"method": "m", "layers": [-5]}', "'layers[0]': Input should be greater than or equal"),
        ('{"method": "m", "layer": [1]}', "did you mean 'layers'?"),
        ('{"method": "m", "Ada Quill": [1]}', "a field has an unknown name"),
        ('{"method": "m", "layer": [1]}', "layer"),
        ('{"layers": [1]}', "method"),
    ],
)
def test_a_sites_file_that_does_not_read(
    text: str, said: str, knowing: str, births: str, tmp_path: Path, refused: Refused
) -> None:
    (tmp_path / "sites.json").write_text(text)
    words = ["-o", tmp_path / "out", "--sites", tmp_path / "sites.json"]
    line = refused("forget", knowing, births, *words)
    assert said in line
    assert "Ada" not in line


def test_an_empty_name_is_said_to_be_empty(tmp_path: Path, refused: Refused) -> None:
    assert "empty name" in refused("forget", "", "", "-o", tmp_path / "out")


@pytest.mark.parametrize("split", ["forget", "retain"])
@pytest.mark.parametrize("command", ["forget", "locate"])
def test_a_text_that_is_too_long_is_named_by_record_and_field(
    command: str,
    split: str,
    knowing: str,
    forget_set: ForgetSet,
    tmp_path: Path,
    refused: Refused,
) -> None:
    first, *rest = forget_set.split(split)
    long = first.model_copy(update={"answer": "Tarn " * 80 + "Tarn"})
    replace(forget_set, **{split: (long, *rest)}).write(tmp_path / "set")  # type: ignore[arg-type]
    line = refused(command, knowing, tmp_path / "set", "-o", tmp_path / "out")
    assert f"{split} record '{first.id}', field 'answer': a text of 87 tokens is longer" in line
    assert "Tarn" not in line


def test_a_sites_file_that_does_not_exist(
    knowing: str, births: str, tmp_path: Path, refused: Refused
) -> None:
    words = ["-o", tmp_path / "out", "--sites", tmp_path / "sites.json"]
    assert "unlearn locate" in refused("forget", knowing, births, *words)


def test_sites_of_another_model_are_refused(
    knowing: str, births: str, tmp_path: Path, refused: Refused
) -> None:
    sites = '{"method": "m", "layers": [0], "model_digest": "%s"}' % ("0" * 64)
    (tmp_path / "sites.json").write_text(sites)
    words = ["-o", tmp_path / "out", "--sites", tmp_path / "sites.json"]
    assert "000000000000" in refused("forget", knowing, births, *words)


def test_what_is_no_artifact_is_said_to_be_none(
    knowing: str, tmp_path: Path, refused: Refused
) -> None:
    assert "has no artifact.json" in refused("apply", knowing, knowing, "-o", tmp_path / "out")
    line = refused("apply", knowing, tmp_path / "none", "-o", tmp_path / "out")
    assert "does not exist" in line


def test_a_report_of_a_folder_without_an_audit(tmp_path: Path, refused: Refused) -> None:
    assert "audit.json" in refused("report", tmp_path)


def test_a_report_of_a_damaged_audit(tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "audit.json").write_text('{"schema_version": "9"}')
    assert "'9'" in refused("report", tmp_path)


def test_an_unknown_strategy_of_the_demo(tmp_path: Path, refused: Refused) -> None:
    line = refused("demo", "-o", tmp_path / "out", "--strategy", "gradient-accent")
    assert "Did you mean 'gradient-ascent'?" in line
