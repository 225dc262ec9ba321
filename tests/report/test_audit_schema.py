"""``docs/audit-schema.json`` describes every ``audit.json`` that is written, and nothing wider."""

import json
import runpy
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from unlearn.report import read
from unlearn.report.files import as_json
from unlearn.types import AuditResult, Calibration, Estimate, Rung

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((ROOT / "docs" / "audit-schema.json").read_text(encoding="utf-8"))
VALIDATOR = Draft202012Validator(SCHEMA)


def strictly(text):
    """The JSON, without the numbers that Python writes and JSON has not."""

    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


def problems(document):
    return [f"{'/'.join(map(str, e.path))}: {e.message}" for e in VALIDATOR.iter_errors(document)]


def test_the_file_is_what_the_types_say():
    made = runpy.run_path(str(ROOT / "docs" / "make_schema.py"))["page"]()
    assert (ROOT / "docs" / "audit-schema.json").read_text("utf-8") == made, "run `make docs`"


def test_the_schema_is_one_and_says_what_it_is():
    Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$id"] == "urn:unlearn:audit:1"
    assert SCHEMA["title"] and SCHEMA["description"]
    assert set(SCHEMA["properties"]) == set(AuditResult.model_fields)
    condition = SCHEMA["$defs"]["Finding"]["properties"]["condition"]
    assert condition["description"].startswith("The precision the models were brought to")


def test_audits_are_valid(result):
    assert problems(strictly(as_json(result))) == []
    assert problems(strictly(as_json(read(ROOT / "reports" / "example")))) == []


def test_an_audit_with_every_optional_part_is_valid(result):
    calibration = Calibration(
        forget_set_digest="77" * 32,
        tier="deep",
        references=("1" * 64, "2" * 64),
        pairs=1,
        margins={"answers/forget": 0.125},
    )
    finding = result.findings[0].model_copy(
        update={
            "key": "extraction_strength/forget@int4",
            "condition": "int4",
            "summary": "auc",
            "contrast": {"unlearned": {"h1": 0.5}},
            "axis": "layer",
            "curves": {"unlearned": ((0.0, 0.5), (1.0, float("inf")))},
        }
    )
    rung = Rung(id="exact", statement="Bit for bit.", state="not tested", why="no reference")
    full = result.model_copy(
        update={
            "calibration": calibration,
            "findings": (finding,),
            "assurance": (rung,),
            "efficiency": {"seconds": 12.5},
        }
    )
    assert problems(strictly(as_json(full))) == []


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.floats(), st.floats(), st.floats())
def test_no_number_leaves_json_and_any_number_is_valid(result, value, low, high):
    odd = Estimate(value=value, low=low, high=high, n=1, clusters=1)
    finding = result.findings[0].model_copy(update={"models": {"unlearned": odd}})
    text = as_json(result.model_copy(update={"findings": (finding,), "seconds": value}))
    assert problems(strictly(text)) == []


@pytest.mark.parametrize(
    ("change", "path"),
    [
        (lambda d: d.update(colour="green"), "colour"),
        (lambda d: d["claims"][0].update(verdict="MAYBE"), "claims/0/verdict"),
        (lambda d: d["findings"][0]["models"]["unlearned"].update(value="high"), "value"),
        (lambda d: d["findings"][0].pop("split"), "split"),
        (lambda d: d["models"].update(stranger={}), "stranger"),
        (lambda d: d.update(schema_version="2"), "schema_version"),
    ],
)
def test_what_is_no_audit_is_not_valid(result, change, path):
    document = strictly(as_json(result))
    change(document)
    assert any(path in problem for problem in problems(document))
