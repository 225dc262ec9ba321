import json
import re
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from unlearn.report import render_html, render_markdown, wording
from unlearn.report.files import as_json
from unlearn.types import AuditResult, Example, Verdict

VOID = {"meta", "link", "br", "img", "input", "hr"}


class Document(HTMLParser):
    """A strict reader: every element closes in order; keeps elements, attributes and texts."""

    def __init__(self, source):
        super().__init__(convert_charrefs=True)
        self.open, self.elements, self.texts, self.data = [], [], [], ""
        self.feed(source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] == ["script"]:
            self.data += data
        elif self.open[-1:] != ["style"]:
            self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())

    def all(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]


@pytest.fixture(scope="module")
def source(result):
    return render_html(result)


@pytest.fixture(scope="module")
def document(source):
    return Document(source)


def test_the_same_result_gives_the_same_bytes(result, source):
    assert render_html(AuditResult.model_validate_json(as_json(result))) == source


def test_the_file_is_small_and_asks_for_nothing_outside_itself(source, document):
    assert len(source.encode()) < 200_000
    for _, attrs in document.elements:
        assert "src" not in attrs
        assert attrs.get("href", "#").startswith("#")
        assert not any(name.startswith("on") for name in attrs)
    assert "@import" not in source
    assert "url(" not in source


def test_the_policy_forbids_scripts_and_the_only_script_is_data(document):
    (policy,) = (m["content"] for m in document.all("meta") if "http-equiv" in m)
    assert policy.startswith("default-src 'none'")
    assert "script-src" not in policy
    assert [s["type"] for s in document.all("script")] == ["application/json"]


def test_hostile_output_is_text_and_nothing_else(document):
    assert "<script>alert(1)</script></script><img src=x onerror=alert(2)>" in document.text
    assert not document.all("img")


def test_control_and_bidirectional_characters_are_spelled_out(source, document):
    assert not set(source) & set("\x1b\x07\u202e\u202c\u200b")
    assert "⟨U+001B⟩[31mbee⟨U+001B⟩[0m⟨U+0007⟩keeper ⟨U+202E⟩gnp.exe⟨U+202C⟩" in document.text


def test_right_to_left_text_finds_its_own_direction(source):
    assert re.search(r'<dd dir="auto">اللغة', source)


@pytest.mark.parametrize("hostile", ["</script><b>", "<!--<script>", "a&b</SCRIPT >", "\u2028</"])
def test_embedded_data_cannot_end_its_element(result, hostile):
    claim = result.claims[0].model_copy(update={"reason": hostile, "statement": hostile})
    result = result.model_copy(update={"claims": (claim,), "provenance": {hostile: hostile}})
    document = Document(render_html(result))
    assert len(document.all("script")) == 1
    assert not document.all("b")
    assert json.loads(document.data)["claims"][0]["reason"] == hostile


def test_embedded_data_is_the_audit_without_record_values_and_examples(result, document):
    findings = tuple(f.model_copy(update={"records": {}}) for f in result.findings)
    slim = result.model_copy(update={"findings": findings, "examples": ()})
    assert AuditResult.model_validate_json(document.data) == slim


def test_embedded_data_holds_curves_and_no_value_of_an_unseen_record(deep):
    found = AuditResult.model_validate_json(Document(render_html(deep)).data).findings
    assert [finding.curves for finding in found] == [finding.curves for finding in deep.findings]
    assert not any(finding.contrast or finding.records for finding in found)


def test_every_verdict_stands_in_words(result, document):
    assert f"Overall verdict ✕ {result.verdict}" in document.text
    for claim in result.claims:
        assert re.search(rf"{claim.verdict} {re.escape(claim.statement)}", document.text)


def test_only_a_pass_is_green(result):
    for verdict in Verdict:
        claim = result.claims[0].model_copy(update={"verdict": verdict})
        shown = render_html(result.model_copy(update={"claims": (claim,), "verdict": verdict}))
        article = re.search(r'<article class="claim (\w+)"', shown)[1]
        assert (article == "pass") is (verdict is Verdict.PASS)


@pytest.mark.parametrize("role", ["original", "reference"])
def test_a_model_that_was_not_measured_says_so_in_every_row(result, role):
    def without(models):
        return {name: one for name, one in models.items() if name != role}

    findings = tuple(
        f.model_copy(update={"models": without(f.models)}) for f in result.findings[:3]
    )
    partial = result.model_copy(
        update={"models": without(result.models), "findings": findings, "examples": ()}
    )
    label = role.capitalize()
    shown = render_html(partial)
    rows = re.findall(rf'<td data-label="{label}" class="absent">not measured</td>', shown)
    assert len(rows) == 3
    assert f"{label}: not measured" in shown
    assert f"The {role} model was not measured" in shown or "No reference model" in shown


def test_headings_descend_one_level_at_a_time(document):
    levels = [int(tag[1]) for tag, _ in document.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_tables_have_captions_and_scopes_and_ids_are_unique(document):
    assert len(document.all("table")) == len(document.all("caption")) > 5
    assert all(th.get("scope") in ("col", "row") for th in document.all("th"))
    ids = [attrs["id"] for _, attrs in document.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    targets = {a["href"][1:] for a in document.all("a")}
    assert targets <= set(ids)
    assert document.all("html") == [{"lang": "en"}]


def test_every_chart_has_a_title_and_a_description(result, document):
    charts = [svg for svg in document.all("svg") if svg.get("role") == "img"]
    assert len(charts) == len(result.findings)
    ids = {attrs["id"] for _, attrs in document.elements if "id" in attrs}
    assert all(set(svg["aria-labelledby"].split()) <= ids for svg in charts)


def test_long_and_many_examples_are_cut_and_the_cut_is_said(result):
    example = Example(
        record_id="r", split="forget", prompt="p", expected="e", outputs={"unlearned": "x" * 5000}
    )
    shown = render_html(result.model_copy(update={"examples": (example,) * 30}))
    assert "x" * 601 not in shown
    assert "(4,400 more characters in audit.json)" in shown
    assert "10 more examples in audit.json." in shown


def test_a_large_audit_stays_below_a_megabyte(result, deep):
    values = {f"record-{i:05}": 1 / 3 for i in range(2000)}
    plain = tuple(
        f.model_copy(update={"records": dict.fromkeys(f.models, values)})
        for f in (*result.findings * 5, *(deep.findings[1:2] * 12))
    )
    rounded = tuple(
        f.model_copy(update={"condition": condition, "key": f"{f.key}@{condition}"})
        for condition in ("bf16", "int8", "int4")
        for f in plain[:50]
    )
    findings = plain + rounded
    large = result.model_copy(update={"findings": findings, "claims": result.claims * 3})
    assert len(findings) > 220
    assert len(as_json(large)) > 5_000_000
    assert len(render_html(large).encode()) < 1_000_000


def test_the_deep_page_is_as_sound_as_the_plain_one(deep):
    document = Document(render_html(deep))
    levels = [int(tag[1]) for tag, _ in document.elements if re.fullmatch(r"h[1-6]", tag)]
    assert all(after - before <= 1 for before, after in pairwise(levels))
    ids = [attrs["id"] for _, attrs in document.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for a in document.all("a")} <= set(ids)
    assert len(document.all("table")) == len(document.all("caption"))
    charts = [svg for svg in document.all("svg") if svg.get("role") == "img"]
    assert all(set(svg["aria-labelledby"].split()) <= set(ids) for svg in charts)
    n_plain = sum(not finding.condition for finding in deep.findings)
    n_curves, n_sweeps = 1, 1
    assert len(charts) == n_plain + n_curves + n_sweeps


def test_figures_of_lower_precision_lie_folded_beside_the_model_as_it_is(deep):
    shown = render_html(deep)
    document = Document(shown)
    assert len(document.all("details")) == 2
    assert "At lower precision" in document.text
    assert "16 bits (bf16): 3 figures" in document.text
    assert shown.index("<details>") > shown.rindex('class="chart"')
    assert shown.count('data-label="Unlearned, as it is"') == 6
    assert 'data-label="Original, int4"' not in shown


def test_a_claim_that_rests_on_lower_precision_leads_there(deep):
    shown = render_html(deep)
    place = next(n for n, f in enumerate(deep.findings, 1) if f.key.endswith("forget@int4"))
    link = (
        f'<a href="#finding-{place}">Share of each answer the model completes word for word, int4'
    )
    assert link in shown
    assert f'<tbody id="finding-{place}">' in shown


def test_the_ladder_stands_in_words_and_signs_right_below_the_verdict(deep, result):
    shown = render_html(deep)
    assert shown.index('class="outcome') < shown.index('id="ladder"') < shown.index('id="claims"')
    text = Document(shown).text
    for words in ("✓ reached", "✕ not reached", "? not decided", "– not tested"):
        assert words in text
    assert "Reached: 1 of 4 steps, counted from the first." in text
    assert '<a href="#claim-2">sampling</a>' in shown
    assert 'id="ladder"' not in render_html(result)


def test_a_model_that_is_only_served_has_no_parameters(result):
    served = result.models["unlearned"].model_copy(update={"parameters": None})
    shown = result.model_copy(update={"models": {**result.models, "unlearned": served}})
    assert "only served, not here" in render_html(shown)
    assert "only served, not here" in render_markdown(shown)


def test_general_text_is_listed_only_where_it_was_measured(result):
    assert "General text" not in render_html(result)
    measured = {"records": {**result.forget_set.records, "general": 12}}
    forget_set = result.forget_set.model_copy(update=measured)
    assert "General text" in render_html(result.model_copy(update={"forget_set": forget_set}))


def test_words_that_promise_too_much_never_appear(result):
    forbidden = re.compile("deleted|anonymous|compliant|certified", re.IGNORECASE)
    bare = result.model_copy(update={"examples": (), "models": {}})
    for verdict in Verdict:
        for label in ("suppressed", "removed", "none"):
            for base in (result, bare):
                shown = base.model_copy(update={"verdict": verdict, "label": label})
                assert not forbidden.search(render_html(shown))
                assert not forbidden.search(render_markdown(shown))


def contrast(first, second):
    def luminance(colour):
        parts = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
        r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_meets_aa_in_light_dark_and_print(source):
    schemes = [
        dict(re.findall(r"--([\w-]+): (#[0-9a-f]{3,6})", block))
        for block in re.findall(r":root \{(.*?)\}", source, re.DOTALL)
    ]
    assert len(schemes) == 3
    for scheme in schemes:
        full = {
            name: "#" + "".join(2 * c for c in hexes[1:]) if len(hexes) == 4 else hexes
            for name, hexes in scheme.items()
        }
        for text in ("ink", "soft", "link", "open"):
            assert min(contrast(full[text], full[back]) for back in ("paper", "card")) >= 4.5
        for tone in ("pass", "fail", "open", "mixed", "none"):
            assert contrast(full[tone], full[f"{tone}-wash"]) >= 4.5
        for mark in ("original", "unlearned", "reference"):
            assert contrast(full[mark], full["paper"]) >= 3
            assert contrast(full[mark], full["band"]) >= 3


def test_multiples_of_the_change_are_drawn_and_listed_and_the_kept_one_is_named(result, deep):
    assert wording.STRENGTHS not in render_html(result)
    shown = render_html(deep)
    at = shown.index(f"<caption>{wording.STRENGTHS}</caption>")
    assert '<polyline class="course"' in shown[at:]
    # Round numbers under it, not those that were measured.
    assert ">0.1</text>" in shown[at:] and ">0.34</text>" not in shown[at:]
    row = '<tr><th scope="row">1</th><td>0.050</td><td>0.340</td><td>kept</td></tr>'
    assert row in shown[at:] and shown.count("<td>kept</td>") == 1
    assert re.search(r"\| 0\\?\.5 \| 0\\?\.600 \| 0\\?\.210 \|", render_markdown(deep))
