"""The picture and the words of a trace."""

from html import unescape

import pytest

import unlearn.lab  # noqa: F401 - importing it makes lab: known
from unlearn.errors import InputError
from unlearn.forget_set import ForgetSet
from unlearn.locate.averages import average
from unlearn.locate.causal_trace import CausalTrace
from unlearn.locate.fact_tracer import CausalTraceConfig
from unlearn.locate.trace import FactTrace, Trace, roles_of
from unlearn.model.language_model import LanguageModel
from unlearn.report.trace_figure import check_figure_path, draw_trace
from unlearn.report.trace_wording import describe_trace


@pytest.fixture(scope="module")
def trace():
    model, forget_set = LanguageModel.load("lab:full"), ForgetSet.read("lab:hazard")
    return CausalTrace(CausalTraceConfig(window=1, max_records=4)).trace(model, forget_set)


@pytest.mark.parametrize(("name", "magic"), [("a.svg", b"<?xml"), ("a.png", b"\x89PNG")])
def test_a_figure_is_written_in_the_format_of_its_name(trace, tmp_path, name, magic):
    draw_trace(trace, tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(magic)


def test_another_format_is_refused_with_those_there_are(tmp_path):
    with pytest.raises(InputError, match=r"svg.*png"):
        check_figure_path(tmp_path / "a.gif")


def test_the_words_give_effects_counts_and_the_warning_and_no_names(trace):
    words = describe_trace(trace)
    n, m = len(trace.records), len({fact.cluster for fact in trace.records})
    assert f"traced {n} facts" in words
    assert ("intervals are over facts" if m == n else f"in {m} groups") in words
    assert "n = " in words and "95 %" in words
    assert words.endswith("not where it is best changed.")
    for record in ForgetSet.read("lab:hazard").forget:
        assert record.subject not in words


def made(firsts, n_relations=None):
    """A trace of made-up facts whose subject's first token brings ``firsts`` back, its last 1."""
    facts = tuple(
        FactTrace(
            id=f"r{number}",
            cluster=number % (n_relations or len(firsts)),
            token_ids=(5, 6, 7, 8),
            corrupted_token_ids=(5, 9, 9, 8),
            answer_token_ids=(3,),
            roles=roles_of(4, range(1, 3)),
            clean=4.0,
            corrupted=0.0,
            effects={"hidden": ((0.0, 0.0), (first, 0.0), (1.0, 0.0), (0.0, 4.0))},
            severed={},
        )
        for number, first in enumerate(firsts)
    )
    return Trace(
        tool_version="0",
        model_digest="0" * 64,
        forget_set_digest="0" * 64,
        seed=0,
        corruption="replace",
        score="logprob",
        windows={"hidden": ((0, 0), (1, 1))},
        settings={},
        records=facts,
    )


def test_a_token_is_called_decisive_only_where_the_facts_settle_it():
    assert "The decisive token is not the subject's last one" in describe_trace(made([3, 3.1, 2.9]))
    assert "do not settle which token is decisive" in describe_trace(made([9, 0.5, 0.4]))
    assert "do not settle which token is decisive" in describe_trace(made([3]))
    assert "decisive" not in describe_trace(made([0.1, 0.2, 0.3]))


def test_the_words_say_what_their_intervals_are_over():
    assert "intervals are over facts" in describe_trace(made([3, 4, 5]))
    assert "traced 4 facts in 2 groups" in describe_trace(made([3, 4, 5, 6], n_relations=2))
    alone = describe_trace(made([3]))
    assert "traced 1 fact; no intervals" in alone and "95 %" not in alone


def test_the_same_trace_gives_the_same_figure_and_it_shows_no_token(trace, tmp_path):
    for name in ("a.svg", "b.svg"):
        draw_trace(trace, tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    drawn = unescape((tmp_path / "a.svg").read_text("utf-8"))
    for words in ("the subject's last token", "the last token", "95 % interval", "without later"):
        assert words in drawn
    for record in ForgetSet.read("lab:hazard").forget:
        assert record.subject not in drawn and record.id not in drawn


def test_a_figure_of_one_fact_has_no_interval_to_draw(tmp_path):
    draw_trace(made([3]), tmp_path / "one.svg")
    assert "1 facts" not in (tmp_path / "one.svg").read_text("utf-8")


def test_a_trace_without_severed_runs_is_averaged_told_and_drawn_like_any_other(trace, tmp_path):
    bare = [fact.model_copy(update={"severed": {}}) for fact in trace.records]
    without = trace.model_copy(update={"records": tuple(bare)})
    assert average(trace).severed and average(without).severed == {}
    said = [line for line in describe_trace(trace).splitlines() if "Without later" not in line]
    assert describe_trace(without).splitlines() == said
    assert len(said) < len(describe_trace(trace).splitlines())
    draw_trace(without, tmp_path / "a.svg")
    written = (tmp_path / "a.svg").read_text("utf-8")
    assert "without later" not in written and "95 % interval" in written


def test_the_words_count_what_was_traced_only_because_it_was_asked_for():
    trace = made([3, 4, 5])
    more = trace.model_copy(update={"extra": trace.records[:1]})
    assert "traced 1 more that were asked for; no average holds them" in describe_trace(more)
    assert describe_trace(more).replace("\n" + describe_trace(more).splitlines()[1], "") == (
        describe_trace(trace)
    )


def test_the_words_count_the_retain_records_that_sites_are_held_against():
    trace = made([3, 4, 5])
    beside = trace.model_copy(update={"retained": trace.records[:2]})
    assert "traced 2 retain records" in describe_trace(beside)
    assert "retain records" not in describe_trace(trace)


def test_estimates_are_called_so_in_words_and_picture(tmp_path):
    rough = made([3, 4, 5]).model_copy(update={"method": "attribution"})
    said = describe_trace(rough).splitlines()
    assert said[0].startswith("screened 3 facts")
    assert said[1] == "Effects are estimates from gradients: all cells."
    exact = [fact.model_copy(update={"refined": (("mlp", 0, 1),)}) for fact in rough.records]
    fine = rough.model_copy(update={"records": tuple(exact)})
    assert "all but 3 cells, which were traced." in describe_trace(fine)
    draw_trace(rough, tmp_path / "a.svg")
    assert "Estimated average indirect effect" in unescape((tmp_path / "a.svg").read_text("utf-8"))
