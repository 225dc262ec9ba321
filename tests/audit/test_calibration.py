"""Margins from never-trained models: the farthest end of their differences, within bounds."""

from __future__ import annotations

import pytest

from unlearn.audit import audit
from unlearn.audit.calibration import calibrate, read_calibration
from unlearn.errors import ConfigError, InputError
from unlearn.lab.bundled import calibration_of
from unlearn.types import Calibration, Verdict


@pytest.fixture
def references(stand_in, reference):
    return [stand_in(f"reference {number}", reference.knows) for number in range(3)]


def test_models_that_differ_in_nothing_get_the_widths_of_their_intervals(
    make_set, full, references
):
    found = calibrate(references, make_set(), original=full, tier="smoke")
    result = audit(references[0], make_set(), original=full, reference=references[1])
    assert found.pairs == 3
    assert set(found.references) == {lm.digest for lm in references}
    answers = next(c for c in result.claims if c.id == "forgotten-answers")
    # 16 people with 4 facts and no leak: 7.7 points, which is less than the standing margin.
    assert "+0.077" in answers.reason
    assert found.margins["answers/forget"] == 0.1
    assert found.margins["answers/retain"] == 0.02
    assert found.capped == ()


def test_references_that_differ_widen_the_margin_up_to_a_ceiling(
    make_set, full, reference, stand_in
):
    def knowing(n):
        names = [f"Forget Person{i} " for i in range(n)]
        return stand_in(
            f"knows {n}", lambda s: reference.knows(s) or any(x in s.prompt for x in names)
        )

    little = calibrate([knowing(0), knowing(1)], make_set(), original=full, tier="smoke")
    assert 0.1 < little.margins["answers/forget"] < 0.25
    much = calibrate([knowing(0), knowing(8)], make_set(), original=full, tier="smoke")
    assert much.margins["answers/forget"] == 0.25
    assert "answers/forget" in much.capped


def test_a_calibration_decides_where_the_standing_margin_does_not(
    make_set, full, references, forgotten
):
    few = make_set(10, 4)
    models = {"original": full, "reference": references[0]}
    plain = audit(forgotten, few, **models)
    found = calibrate(references[:2], few, original=full, tier="smoke")
    wider = found.model_copy(update={"margins": {**found.margins, "answers/forget": 0.2}})
    calibrated = audit(forgotten, few, **models, calibration=wider)
    reasons = [
        next(c.reason for c in r.claims if c.id == "forgotten-answers") for r in (plain, calibrated)
    ]
    assert "allowed +0.100" in reasons[0] and "allowed +0.200" in reasons[1]
    assert calibrated.calibration == wider
    leaking = audit(full, few, **models, calibration=wider)
    assert leaking.verdict is Verdict.FAIL


def test_every_model_is_read_once_however_many_pairs_it_is_in(make_set, full, references):
    calibrate(references, make_set(), original=full, tier="smoke")
    assert [len(lm.batches) for lm in (full, *references)] == [1, 1, 1, 1]


def test_one_model_twice_is_no_pair_and_the_original_no_reference(make_set, full, references):
    with pytest.raises(ConfigError, match="1 reference is too few"):
        calibrate([references[0], references[0]], make_set(), tier="smoke")
    with pytest.raises(InputError, match="the original is among the references"):
        calibrate([references[0], full], make_set(), original=full, tier="smoke")


def test_margins_of_another_set_are_refused(make_set, full, references):
    found = calibrate(references[:2], make_set(), tier="smoke")
    with pytest.raises(ConfigError, match="belongs to another forget set"):
        audit(full, make_set(8), reference=references[0], calibration=found)


def test_a_file_comes_back_and_another_file_is_refused(make_set, references, tmp_path):
    found = calibrate(references[:2], make_set(), tier="smoke")
    path = tmp_path / "margins.json"
    path.write_text(found.model_dump_json())
    assert read_calibration(path) == found
    with pytest.raises(InputError, match="there is no file"):
        read_calibration(tmp_path / "nothing.json")
    path.write_text("{}")
    with pytest.raises(InputError, match="is not a calibration"):
        read_calibration(path)


def test_the_lab_brings_margins_for_its_own_references_and_set_alone():
    import unlearn

    ten, reference = unlearn.ForgetSet.read("lab:ten-people"), unlearn.load("lab:reference")
    found = calibration_of(ten.digest, reference.digest)
    assert isinstance(found, Calibration)
    assert found.pairs == 3 and len(found.references) == 3
    # The model that the tests pass with these margins took no part in them.
    assert unlearn.load("lab:reference-2").digest not in found.references
    assert calibration_of(ten.digest, unlearn.load("lab:full").digest) is None
    assert calibration_of("0" * 64, reference.digest) is None
