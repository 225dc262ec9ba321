"""The ladder's words, how figures that are no means are read, and rows of lower precision."""

import pytest

from unlearn.report.ladder import STATES, climbed, steps
from unlearn.report.page import apart, page
from unlearn.report.rows import conditions, groups, reading
from unlearn.types import Calibration, Rung


def rungs(*states, last="alike"):
    names = [*(f"step-{n}" for n in range(len(states) - 1)), last]
    return tuple(
        Rung(id=name, statement="S.", state=state, why="")
        for name, state in zip(names, states, strict=True)
    )


@pytest.mark.parametrize(
    ("states", "words"),
    [
        ((), ""),
        (("reached", "reached", "not tested"), "Reached: 2 of 3 steps, counted from the first."),
        (("not decided", "reached"), "Reached: 0 of 2 steps, counted from the first."),
        (("reached",), "Reached: 1 of 1 step, counted from the first."),
    ],
)
def test_steps_are_counted_until_the_first_that_is_not_reached(states, words):
    assert climbed(rungs(*states) if states else ()) == words


def test_equal_weights_need_no_step_below_them():
    found = climbed(rungs("not tested", "reached", last="exact"))
    assert found.startswith("The last step is reached")
    assert "0 of 2" in climbed(rungs("not tested", "not reached", last="exact"))


def test_every_state_has_a_sign_of_its_own():
    states = Rung.model_fields["state"].annotation.__args__
    assert set(STATES) == set(states)
    assert len({mark.symbol for mark in STATES.values()}) == len(states)


def test_a_reason_leads_to_the_claims_it_names_and_reads_as_before(deep):
    step = steps(deep)[1]
    assert "".join(link.title for link in step.why) == "FAIL: sampling, decoys"
    assert [link.anchor for link in step.why if link.anchor] == ["claim-2", "claim-3"]


def test_ranks_say_that_a_half_is_nothing_and_means_say_nothing(deep):
    mean, _, auc, tpr = deep.findings[:4]
    assert reading(mean) == ""
    assert reading(auc).startswith("AUC against 190 never-seen records: 0.5 tells nothing; above")
    assert "0.01 tells nothing" in reading(tpr)
    assert "never-seen records" in reading(auc.model_copy(update={"contrast": {}}))


def test_rows_of_lower_precision_stand_beside_the_figure_as_it_is(deep):
    found = {condition.name: condition for condition in conditions(deep)}
    assert list(found) == ["bf16", "int4"]
    assert found["int4"].heading == "4 bits (int4): 3 figures"
    assert found["int4"].roles == ("unlearned", "reference")
    strength, probability, _ = found["int4"].rows
    assert strength.plain.value == "0.048"
    assert probability.plain.value == "not measured"  # no such figure of the model as it is
    assert not {row.key for group in groups(deep) for row in group.rows} & {strength.key}


def test_a_precision_nobody_named_is_called_as_it_is(deep):
    odd = deep.findings[-1].model_copy(update={"condition": "fp8"})
    (found,) = conditions(deep.model_copy(update={"findings": (odd,)}))
    assert found.heading == "fp8: 1 figure"


def test_a_reason_is_cut_where_the_next_figure_begins_and_loses_no_word():
    reason = "A: 1.0, reference 0.5. Beyond. B (0.5: chance): 2.0. A: again."
    parts = apart(reason, ["A", "B (0.5: chance)"])
    assert " ".join(parts) == reason
    assert parts[0] == "A: 1.0, reference 0.5. Beyond."
    assert apart("Nothing here.", ["A"]) == ("Nothing here.",)
    assert apart("", []) == ("",)


def test_the_page_says_where_margins_come_from_and_what_forgetting_took(deep):
    assert ("Margins", "the standing ones") in page(deep).facts
    assert page(deep).cost == (("seconds", "83.2"), ("gradient tokens", "120,000"))
    calibration = Calibration(
        forget_set_digest="1", tier="deep", references=("2", "3", "4"), pairs=3, margins={}
    )
    shown = page(deep.model_copy(update={"calibration": calibration}))
    assert ("Margins", "from 3 pairs of never-trained models") in shown.facts
