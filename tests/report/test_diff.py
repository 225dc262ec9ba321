"""What changed between two audits: every kind of change, and nothing where nothing did."""

import re

import pytest

from unlearn.errors import InputError
from unlearn.report.diff import change_of, diff
from unlearn.report.diff_text import WIDTH, render_diff_markdown, render_diff_text
from unlearn.types import Estimate, Rung, Verdict


def with_claims(result, **verdicts):
    """The result with only these claims, each with its verdict."""
    base = result.claims[0]
    claims = tuple(
        base.model_copy(update={"id": name, "statement": f"Of {name}.", "verdict": verdict})
        for name, verdict in verdicts.items()
    )
    return result.model_copy(update={"claims": claims})


def with_figure(result, *, value, low, high, place=0, **fields):
    """The result with one finding, and this figure of the unlearned model in it."""
    finding = result.findings[place]
    one = Estimate(value=value, low=low, high=high, n=36, clusters=8)
    models = {**finding.models, "unlearned": one}
    return result.model_copy(
        update={"findings": (finding.model_copy(update={"models": models, **fields}),)}
    )


def with_answers(result, values, key="answers/forget"):
    metric, split = key.split("/")
    return with_figure(
        result,
        value=0.5,
        low=0.4,
        high=0.6,
        key=key,
        metric=metric,
        split=split,
        records={"unlearned": values},
    )


def test_an_audit_against_itself_has_no_change(result):
    found = diff(result, result)
    assert {claim.change for claim in found.claims} == {"same"}
    assert (found.figures, found.figures_new, found.figures_gone, found.rungs) == ((), (), (), ())
    assert found.figures_compared == len(result.findings)
    assert found.exit_code == 0
    assert found.notes == ("Both audits are of the same model, bit for bit.",)


@pytest.mark.parametrize("before", [None, *Verdict])
@pytest.mark.parametrize("after", [None, *Verdict])
def test_a_claim_is_worse_when_it_leaves_pass_or_comes_to_fail(before, after):
    if before is None and after is None:
        return
    change = change_of(before, after)
    both = before is not None and after is not None
    left_pass = before is Verdict.PASS and after is not Verdict.PASS
    came_to_fail = after is Verdict.FAIL and before is not Verdict.FAIL
    assert (change == "worse") is (both and (left_pass or came_to_fail))
    assert (change == "same") is (before is after)
    assert (change == "new") is (before is None)
    assert (change == "gone") is (after is None)


@pytest.mark.parametrize("after", [v for v in Verdict if v is not Verdict.FAIL])
def test_whatever_leaves_fail_is_better_and_what_never_proved_anything_is_not(after):
    assert change_of(Verdict.FAIL, after) == "better"
    assert change_of(Verdict.NOT_RUN, Verdict.INCONCLUSIVE) == "changed"


def test_only_a_claim_that_got_worse_sets_the_exit_code(result):
    before = with_claims(result, a=Verdict.PASS, b=Verdict.FAIL, c=Verdict.INCONCLUSIVE)
    better = with_claims(result, a=Verdict.PASS, b=Verdict.PASS, d=Verdict.FAIL)
    found = diff(before, better)
    assert {claim.id: claim.change for claim in found.claims} == {
        "a": "same",
        "b": "better",
        "c": "gone",
        "d": "new",
    }
    assert found.exit_code == 0
    worse = diff(before, with_claims(result, a=Verdict.NOT_RUN, b=Verdict.FAIL))
    assert [claim.id for claim in worse.worse] == ["a"]
    assert worse.exit_code == 1
    assert worse.claims[0].id == "a"


@pytest.mark.parametrize(("more", "knows"), [("higher", "more"), ("lower", "less")])
def test_a_figure_that_grew_is_read_in_its_own_direction(result, more, knows):
    before = with_figure(result, value=0.1, low=0.05, high=0.2, more_knowledge=more)
    after = with_figure(result, value=0.3, low=0.15, high=0.4, more_knowledge=more)
    (moved,) = diff(before, after).figures
    assert (moved.before.value, moved.after.value) == (0.1, 0.3)
    assert (moved.knows, moved.apart) == (knows, False)
    (back,) = diff(after, before).figures
    assert back.knows != knows


def test_intervals_without_a_common_point_are_apart_whichever_comes_first(result):
    low = with_figure(result, value=0.1, low=0.05, high=0.2)
    high = with_figure(result, value=0.3, low=0.21, high=0.4)
    touching = with_figure(result, value=0.3, low=0.2, high=0.4)
    assert [diff(low, high).figures[0].apart, diff(high, low).figures[0].apart] == [True, True]
    assert not diff(low, touching).figures[0].apart


def test_figures_that_one_audit_lacks_are_named_and_not_compared(result):
    fewer = result.model_copy(update={"findings": result.findings[2:]})
    found = diff(result, fewer)
    assert found.figures_gone == tuple(f.key for f in result.findings[:2])
    assert diff(fewer, result).figures_new == found.figures_gone
    assert found.figures_compared == len(result.findings) - 2


def test_records_that_came_back_and_records_that_were_lost_are_counted(result):
    before = with_answers(result, {"a": 0.0, "b": 1.0, "c": 0.0, "old": 1.0})
    after = with_answers(result, {"a": 1.0, "b": 0.0, "c": 0.5, "new": 1.0})
    (counts,) = diff(before, after).records
    assert (counts.compared, counts.gained, counts.lost) == (3, 2, 1)


def test_figures_that_are_no_answers_count_no_records(result):
    values = {"a": 0.0}
    assert diff(result, result).records == ()
    probability = with_answers(result, values, key="probability/forget")
    assert diff(probability, probability).records == ()
    rank = probability.findings[0].model_copy(update={"metric": "x_answers", "summary": "auc"})
    ranked = result.model_copy(update={"findings": (rank,)})
    assert diff(ranked, ranked).records == ()


def other_set(result):
    forget_set = result.forget_set.model_copy(update={"name": "others", "digest": "77" * 32})
    return result.model_copy(update={"forget_set": forget_set})


def test_audits_of_different_forget_sets_are_refused_unless_asked_for(result):
    answered = with_answers(result, {"a": 0.0})
    with pytest.raises(InputError, match=r"one-person \(e7702d4c.*others.*--other-forget-set"):
        diff(answered, other_set(answered))
    found = diff(answered, other_set(answered), other_set=True)
    assert found.records == ()
    assert found.notes[0].startswith("The forget sets differ: one-person")


@pytest.mark.parametrize(
    ("changed", "note"),
    [
        ({"tier": "deep"}, "The tiers differ: standard and deep."),
        ({"seed": 8}, "The seeds differ: 7 and 8."),
        ({"tool_version": "0.2.0"}, "The versions of unlearn differ: 0.1.0 and 0.2.0."),
    ],
)
def test_what_else_differs_is_said(result, changed, note):
    assert note in diff(result, result.model_copy(update=changed)).notes


def test_a_reference_that_differs_or_is_lacking_is_said(result):
    without = {role: m for role, m in result.models.items() if role != "reference"}
    notes = diff(result, result.model_copy(update={"models": without})).notes
    assert "The reference models differ: c18a55e3c18a and none." in notes


def rung(state):
    return Rung(id="exact", statement="Bit for bit.", state=state, why="digests")


def test_steps_of_the_ladder_that_changed_are_listed(result):
    before = result.model_copy(update={"assurance": (rung("reached"),)})
    after = result.model_copy(update={"assurance": (rung("not reached"),)})
    (moved,) = diff(before, after).rungs
    assert (moved.id, moved.before, moved.after) == ("exact", "reached", "not reached")
    assert diff(result, after).rungs[0].before == ""
    assert diff(after, after).rungs == ()


@pytest.fixture
def changed(result):
    """A difference with something in every part."""
    values = {"a": 0.0, "b": 1.0}
    before = with_answers(with_claims(result, a=Verdict.PASS, b=Verdict.FAIL), values)
    after = with_answers(with_claims(result, a=Verdict.FAIL, c=Verdict.PASS), {"a": 1.0, "b": 1.0})
    far = Estimate(value=0.9, low=0.8, high=0.95, n=36, clusters=8)
    (finding,) = after.findings
    finding = finding.model_copy(update={"models": {**finding.models, "unlearned": far}})
    after = after.model_copy(update={"findings": (finding,), "assurance": (rung("reached"),)})
    return diff(before, after)


def test_the_text_and_the_markdown_hold_the_same_rows(changed):
    shown = render_diff_text(changed)
    marked = re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", render_diff_markdown(changed))
    for part in ("▼ worse", "▲", "Of a.", "Of c.", "0.500 [0.400 to 0.600]", "knows more", "Bit"):
        assert (part in shown) is (part in marked)
    assert "0.900 [0.800 to 0.950]" in shown
    assert "answers/forget" in shown
    assert shown.endswith("1 claim got worse")
    assert "**1 claim got worse**" in marked
    assert max(map(len, shown.splitlines())) <= WIDTH


def test_what_moved_at_full_precision_is_shown_once_and_what_moved_below_it_alone_is_shown(result):
    def at(value, key):
        one = Estimate(value=value, low=value - 0.01, high=value + 0.01, n=36, clusters=8)
        models = {"unlearned": one}
        condition = key.partition("@")[2]
        update = {"key": key, "models": models, "condition": condition}
        return result.findings[0].model_copy(update=update)

    def audit(*findings):
        return result.model_copy(update={"findings": findings})

    keys = ("answers/forget", "answers/forget@int4", "rank/forget", "rank/forget@int4")
    before = audit(*(at(0.1, key) for key in keys))
    after = audit(*(at(0.1 if key == "rank/forget" else 0.9, key) for key in keys))
    shown = render_diff_text(diff(before, after))
    rows = [line.split()[0] for line in shown.splitlines() if "[0.8" in line]
    assert rows == ["answers/forget", "rank/forget@int4"]
    assert "1 more figure moved likewise at lower precision." in " ".join(shown.split())


def test_records_of_lower_precision_are_shown_where_more_came_back_there(result):
    def audit(**values):
        made = (with_answers(result, v).findings[0] for v in values.values())
        keys = (f"answers/forget{'' if name == 'plain' else f'@{name}'}" for name in values)
        pairs = zip(made, keys, strict=True)
        return result.model_copy(
            update={"findings": tuple(f.model_copy(update={"key": key}) for f, key in pairs)}
        )

    nothing = {"a": 0.0, "b": 0.0}
    before = audit(plain=nothing, int8=nothing, int4=nothing)
    after = audit(plain=nothing, int8=nothing, int4={"a": 1.0, "b": 0.0})
    shown = render_diff_text(diff(before, after))
    assert "answers/forget@int4" in shown and "answers/forget@int8" not in shown
    assert "Of lower precisions" in shown


def test_hostile_words_stay_words(result):
    hostile = "\x1b[31m<b>|*x*"
    claim = result.claims[0].model_copy(update={"statement": hostile, "reason": hostile})
    after = result.model_copy(update={"claims": (claim,)})
    before = result.model_copy(update={"claims": ()})
    found = diff(before, after)
    assert "\x1b" not in render_diff_text(found)
    marked = render_diff_markdown(found)
    assert "\x1b" not in marked and "<b>" not in marked and "\\|\\*x" in marked
