"""The picture and the words of a trace."""

import pytest

import unlearn.lab  # noqa: F401 - importing it makes lab: known
from unlearn.errors import InputError
from unlearn.forget_set import ForgetSet
from unlearn.locate.causal_trace import CausalTrace
from unlearn.locate.fact_tracer import CausalTraceConfig
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
    assert f"traced {len(trace.records)} facts" in words
    assert "n = " in words and "95 %" in words
    assert words.endswith("not where it is best changed.")
    for record in ForgetSet.read("lab:hazard").forget:
        assert record.subject not in words
