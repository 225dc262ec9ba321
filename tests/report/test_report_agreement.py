"""HTML, Markdown, JSON and JUnit say the same, whatever the audit holds."""

import html
import re
import string
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unlearn.report import render_html, render_junit, render_markdown, wording
from unlearn.report.files import as_json
from unlearn.report.markdown import fence, text
from unlearn.report.page import page
from unlearn.types import (
    SPLITS,
    AuditedModel,
    AuditedSet,
    AuditResult,
    Claim,
    Estimate,
    Example,
    Finding,
    Rung,
)

words = st.text(max_size=30) | st.sampled_from(
    [
        "</script>",
        "| a | b",
        "`x` **y**",
        "[l](http://x)",
        "1. one",
        "\x1b[31m",
        "\u202eabc",
        "&lt;",
    ]
)
names = st.text(string.ascii_lowercase, min_size=1, max_size=8)
numbers = st.floats(-1e6, 1e6) | st.floats(0, 1) | st.sampled_from([float("inf"), float("nan")])
counts = st.integers(0, 5000)
roles = st.sampled_from(["original", "unlearned", "reference"])
splits = st.sampled_from(SPLITS)


def some(strategy):
    return st.lists(strategy, max_size=3).map(tuple)


def build(noun, **fields):
    return st.builds(noun, **fields)


estimates = build(Estimate, value=numbers, low=numbers, high=numbers, n=counts, clusters=counts)
findings = build(
    Finding,
    key=names,
    probe=names,
    metric=names,
    split=splits,
    title=words,
    unit=words,
    models=st.dictionaries(roles, estimates),
    records=st.just({})
    | st.dictionaries(roles, st.dictionaries(names, st.floats(0, 1), max_size=3)),
    condition=st.sampled_from(["", "int4"]),
    contrast=st.dictionaries(roles, st.dictionaries(names, numbers, max_size=2)),
    axis=names | st.just("samples"),
    curves=st.dictionaries(roles, some(st.tuples(numbers, numbers))),
)
rungs = build(Rung, id=names, statement=words, why=words)
claims = build(
    Claim,
    id=names,
    statement=words,
    reason=words,
    findings=some(names),
    n_needed=st.none() | st.integers(1, 9999),
)
models = build(AuditedModel, source=words, digest=names, dtype=names, parameters=counts)
audited = build(
    AuditedSet,
    name=words,
    digest=names,
    records=st.dictionaries(splits, counts),
    subjects=st.dictionaries(splits, counts),
)
examples = build(
    Example,
    record_id=names,
    split=splits,
    prompt=words,
    expected=words,
    outputs=st.dictionaries(roles, words),
)
results = build(
    AuditResult,
    schema_version=st.just("1"),
    tool_version=names,
    created=words,
    seed=counts,
    seconds=numbers,
    models=st.dictionaries(roles, models),
    forget_set=audited,
    findings=some(findings),
    claims=some(claims),
    limits=some(words),
    assurance=some(rungs),
    efficiency=st.dictionaries(words, numbers, max_size=2),
    provenance=st.dictionaries(words, words, max_size=3),
    examples=some(examples),
)


class _Text(HTMLParser):
    def __init__(self, source):
        super().__init__(convert_charrefs=True)
        self.parts, self.hidden = [], 0
        self.feed(source)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.hidden += tag in ("style", "script", "svg")

    def handle_endtag(self, tag):
        self.hidden -= tag in ("style", "script", "svg")

    def handle_data(self, data):
        if not self.hidden:
            self.parts.append(data)


def _plain(shown):
    return "".join(shown.split())


def html_text(result, reader="officer"):
    return _plain("".join(_Text(render_html(result, reader)).parts))


def markdown_text(result):
    lines = render_markdown(result).replace("<br>", " ")
    return _plain(html.unescape(re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", lines)))


def expected(result):
    """Everything a reader must find, in both formats."""
    shown = page(result)
    yield from (result.forget_set.name, result.verdict, shown.headline, shown.outcome)
    yield from result.limits
    yield from shown.warnings
    for claim in result.claims:
        yield from (claim.verdict, claim.statement, claim.reason)
    for judged in shown.judgements:
        yield from (judged.needed, judged.id)
    yield shown.climbed
    for step in shown.ladder:
        yield from (step.state, step.statement, "".join(link.title for link in step.why))
    for row in (row for group in shown.groups for row in group.rows):
        yield from (row.title, row.key, row.probe, row.split, row.direction, row.note, row.reading)
        for cell in row.cells:
            yield from (cell.value, cell.unit, cell.interval, cell.size)
    for condition in shown.conditions:
        yield condition.heading
        for row in condition.rows:
            yield from (row.title, row.key, row.split, row.direction)
            for cell in (row.plain, *row.cells):
                yield from (cell.value, cell.unit, cell.interval, cell.size)
    for name, value in (*shown.facts, *shown.provenance, *shown.cost):
        yield from (name, value)
    for row in shown.obligations:
        yield from (row.rule, row.asks, row.missing)
        yield from (link.title for link in row.evidence)
    yield shown.standouts.summary
    for row in shown.standouts.rows:
        yield from row
    yield from (shown.signed, shown.checking.state, shown.checking.command)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(results)
def test_both_formats_hold_every_verdict_reason_and_figure(result):
    in_html, in_markdown = html_text(result), markdown_text(result)
    for part in expected(result):
        # Backslashes are left out: undoing Markdown's escapes here cannot tell them from its own.
        if "\\" in part:
            continue
        assert _plain(wording.visible(part)) in in_html
        assert _plain(wording.visible(part)) in in_markdown


def junit_verdict(case):
    """What a CI server shows of a claim."""
    skipped = case.find("skipped")
    if skipped is not None:
        return skipped.get("message").split(":")[0]
    return "PASS" if case.find("failure") is None else "FAIL"


def figures_of(result):
    """Every figure with its interval and sample, as printed."""
    shown = page(result)
    rows = [row.cells for group in shown.groups for row in group.rows]
    rows += [(row.plain, *row.cells) for one in shown.conditions for row in one.rows]
    return [(c.role, c.value, c.unit, c.interval, c.size) for cells in rows for c in cells]


def embedded_in(source):
    return AuditResult.model_validate_json(re.search(r'id="audit">(.*?)</script>', source)[1])


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(results)
def test_every_format_holds_every_claim_and_figure_with_its_interval(result):
    root = ET.fromstring(render_junit(result))
    texts = {
        "html": html_text(result),
        "regulator": html_text(result, "regulator"),
        "md": markdown_text(result),
        "junit": _plain("".join(root.itertext())),
    }
    said = [part for claim in result.claims for part in (claim.statement, claim.reason)]
    said += [part for _, *figure in figures_of(result) for part in figure]
    for part in said:
        if "\\" not in part:
            shown = legal(_plain(wording.visible(part)))
            assert [name for name, text in texts.items() if shown not in legal(text)] == []


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(results)
def test_verdicts_and_figures_are_the_same_for_programs(result):
    verdicts = [claim.verdict for claim in result.claims]
    cases = ET.fromstring(render_junit(result)).iter("testcase")
    assert [junit_verdict(case) for case in cases] == verdicts
    for again in (
        AuditResult.model_validate_json(as_json(result)),
        embedded_in(render_html(result)),
        embedded_in(render_html(result, "regulator")),
    ):
        assert [claim.verdict for claim in again.claims] == verdicts
        assert figures_of(again) == figures_of(result)


def legal(text):
    """The text with what XML cannot hold replaced, as JUnit has it."""
    return re.sub("[\ufffe\uffff\ud800-\udfff]", "\ufffd", text)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(results)
def test_the_printed_verdict_is_the_one_that_sets_the_exit_code(result):
    symbol = wording.VERDICTS[result.verdict].symbol
    assert f"\n**{symbol} {result.verdict}**: " in render_markdown(result)
    overall = re.search(r'class="overall">(.*?)</p>', render_html(result), re.DOTALL)[1]
    assert " ".join(re.sub(r"<.*?>", "", overall).split()) == f"{symbol} {result.verdict}"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(results)
def test_any_audit_reads_back_as_it_was(result):
    text = as_json(result)
    assert as_json(AuditResult.model_validate_json(text)) == text


def test_the_realistic_audit_says_the_same_twice(result):
    in_html, in_markdown = html_text(result), markdown_text(result)
    parts = [_plain(part) for part in expected(result)]
    assert len(parts) > 200
    assert all(part in in_html and part in in_markdown for part in parts)
    for example in result.examples:
        for said in (example.prompt, example.expected, *example.outputs.values()):
            assert _plain(wording.visible(said)) in in_html
            assert _plain(wording.visible(said)) in in_markdown


def test_the_deep_audit_says_the_same_twice(deep):
    in_html, in_markdown = html_text(deep), markdown_text(deep)
    for part in expected(deep):
        assert _plain(part) in in_html and _plain(part) in in_markdown


def test_markdown_lists_the_points_of_a_curve(deep):
    shown = render_markdown(deep)
    assert "| layer | 0 | 1.00 | 2.00 |" in shown
    assert "| Unlearned | 0 | 0.062 | 0.125 |" in shown


@given(st.text())
def test_markdown_text_is_one_line_without_markup(raw):
    line = text(raw)
    assert "\n" not in line
    assert not re.search(r"(?<!\\)(\\\\)*[`*_\[\]|~$#]", line)
    assert not re.search("[<>]", line)
    assert not re.match(r"[-+=]|\d+[.)]", line)


@given(st.text("`~ab\n") | st.text())
def test_a_code_block_cannot_be_left(raw):
    block = fence(raw)
    ticks = re.match("`+", block)[0]
    inside = block.removeprefix(f"{ticks}text\n").removesuffix(f"\n{ticks}")
    assert inside == wording.visible(raw)
    assert len(ticks) >= 3
    assert ticks not in inside


@pytest.mark.parametrize("role", ["original", "reference"])
def test_markdown_says_what_was_not_measured(result, role):
    left = {name: one for name, one in result.models.items() if name != role}
    shown = render_markdown(result.model_copy(update={"models": left}))
    assert f"{role.capitalize()}, " in shown
    assert "| not measured | not measured | not measured | not measured |" in shown
