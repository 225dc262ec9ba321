"""Causal tracing as a locator, on the bundled model that knows the bundled forget set."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from tokenizers import normalizers

import unlearn.lab  # noqa: F401 - importing it makes lab: known
from unlearn.errors import InputError, UnsupportedError
from unlearn.forget_set import ForgetSet
from unlearn.locate import locate_and_trace
from unlearn.locate.causal_trace import CausalTrace
from unlearn.locate.fact_tracer import CausalTraceConfig, FactTracer
from unlearn.locate.journal import TraceJournal
from unlearn.locate.trace import Skipped
from unlearn.locate.tracing_facts import read_fact, token_texts
from unlearn.model.hooks import first, replace_first
from unlearn.model.language_model import LanguageModel
from unlearn.model.scoring import score


@pytest.fixture(scope="module")
def lab():
    return LanguageModel.load("lab:full")


@pytest.fixture(scope="module")
def whole():
    return ForgetSet.read("lab:one-person")


@pytest.fixture(scope="module")
def few(whole):
    """Four records: birthplace and university, two wordings each."""
    return replace(whole, forget=(*whole.forget[:2], *whole.forget[4:6]))


def trace(model, forget_set, **settings):
    """Without retain records, which the sites alone need."""
    return CausalTrace(alone(**settings)).trace(model, forget_set)


def alone(**settings):
    return CausalTraceConfig(**{"retain_records": 0, **settings})


def run(model, ids, edits=()):
    """Logits behind a prompt, with (module name, function of its output) edits; plain hooks."""
    network = model.model
    handles = [
        network.get_submodule(name).register_forward_hook(
            lambda _, args, out, change=change: replace_first(out, change(first(out)))
        )
        for name, change in edits
    ]
    try:
        with torch.no_grad():
            return network(input_ids=torch.tensor([list(ids)]), use_cache=False).logits[0, -1]
    finally:
        for handle in handles:
            handle.remove()


def outputs(model, ids, names):
    kept = {}

    def keep(name):
        return lambda _, args, out: kept.__setitem__(name, first(out).detach().clone())

    handles = [model.model.get_submodule(n).register_forward_hook(keep(n)) for n in names]
    try:
        run(model, ids)
    finally:
        for handle in handles:
            handle.remove()
    return kept


def put(clean, token):
    def change(out):
        out = out.clone()
        out[:, token] = clean[:, token]
        return out

    return change


def test_every_kind_of_cell_can_be_repeated_with_plain_hooks(lab, few):
    found = trace(lab, few, window=3)
    assert found.records and found.windows["mlp"][4] == (3, 5)
    anatomy = lab.anatomy
    mlps = [anatomy.mlp_contribution(layer) for layer in range(8)]
    names = [*anatomy.layers, *mlps]
    for fact in found.records[:2]:
        answer, foil = fact.answer_token_ids[0], fact.foil_token_id

        def scored(logits, answer=answer, foil=foil):
            return float(logits[answer] - logits[foil])

        assert scored(run(lab, fact.token_ids)) == pytest.approx(fact.clean, abs=1e-4)
        base = scored(run(lab, fact.corrupted_token_ids))
        assert base == pytest.approx(fact.corrupted, abs=1e-4)
        clean = outputs(lab, fact.token_ids, names)
        corrupted = outputs(lab, fact.corrupted_token_ids, mlps)
        for token in range(0, len(fact.token_ids), 2):
            for layer in (0, 4, 6):
                state = (anatomy.layers[layer], put(clean[anatomy.layers[layer]], token))
                hidden = scored(run(lab, fact.corrupted_token_ids, [state])) - base
                assert fact.effects["hidden"][token][layer] == pytest.approx(hidden, abs=1e-3)
                first_one, last_one = found.windows["mlp"][layer]
                inside = mlps[first_one : last_one + 1]
                edits = [(name, put(clean[name], token)) for name in inside]
                effect = scored(run(lab, fact.corrupted_token_ids, edits)) - base
                assert fact.effects["mlp"][token][layer] == pytest.approx(effect, abs=1e-3)
                held = [(name, put(corrupted[name], token)) for name in mlps[layer + 1 :]]
                cut = scored(run(lab, fact.corrupted_token_ids, [state, *held])) - base
                assert fact.severed["mlp"][token][layer] == pytest.approx(cut, abs=1e-3)


def test_noise_can_be_drawn_again_from_what_the_trace_says(lab, few):
    found = trace(lab, few, corruption="noise", score="probability", samples=4)
    fact = found.records[0]
    noise = fact.noise
    generator = torch.Generator().manual_seed(noise.seed)
    width = lab.model.get_input_embeddings().weight.shape[1]
    drawn = torch.randn(noise.samples, len(noise.positions), width, generator=generator)
    shares = []
    for sample in drawn * noise.standard_deviation:

        def corrupt(out, sample=sample):
            out = out.clone()
            out[:, list(noise.positions)] += sample
            return out

        logits = run(lab, fact.token_ids, [(lab.anatomy.embedding, corrupt)])
        shares.append(float(logits.softmax(-1)[fact.answer_token_ids[0]]))
    assert sum(shares) / 4 == pytest.approx(fact.corrupted, abs=1e-5)
    assert fact.corrupted_token_ids == fact.token_ids


def test_the_clean_score_is_the_one_of_the_scoring_room(lab, few):
    found = trace(lab, few, score="logprob")
    expected = {
        r.id: s.logprobs.sum() for r, s in zip(few.forget, score(lab, few.forget), strict=True)
    }
    for fact in found.records:
        assert fact.clean == pytest.approx(expected[fact.id], abs=1e-4)
        assert fact.foil_token_id is None


def test_facts_the_model_does_not_know_are_skipped_and_counted(lab, few):
    wrong = few.forget[0].model_copy(update={"answer": few.forget[0].alternatives[0]})
    wrong = wrong.model_copy(update={"alternatives": ()})
    found = trace(lab, replace(few, forget=(wrong, *few.forget[1:])))
    (skipped,) = (s for s in found.skipped if s.id == wrong.id)
    assert skipped.reason == "not-known"
    assert skipped.model_answer.strip().startswith(few.forget[0].answer[:3])
    with pytest.raises(UnsupportedError, match=r"does not give the answer to 1 of them") as caught:
        trace(lab, replace(few, forget=(wrong,)))
    assert wrong.subject not in str(caught.value)


def test_a_prompt_that_is_too_long_names_its_record_and_not_its_text(lab, few):
    long = few.forget[0].model_copy(update={"prompt": few.forget[0].prompt + " and" * 300})
    with pytest.raises(InputError, match=long.id) as caught:
        trace(lab, replace(few, forget=(long,)))
    assert long.subject not in str(caught.value)


def test_what_the_time_did_not_suffice_for_is_said(lab, few):
    ticks = iter(range(0, 1000, 10))
    locator = CausalTrace(CausalTraceConfig(max_seconds=15), clock=lambda: next(ticks))
    found = locator.trace(lab, few)
    assert found.not_covered
    ids = {r.id for r in (*found.records, *found.skipped)} | set(found.not_covered)
    assert ids == {record.id for record in few.forget}


def test_an_interrupted_trace_goes_on_and_gives_the_same(lab, few, tmp_path):
    journal = tmp_path / "trace.partial"

    def interrupt(what, share):
        raise KeyboardInterrupt

    locator = CausalTrace(alone(window=1))
    with pytest.raises(KeyboardInterrupt):
        locator.trace(lab, few, progress=interrupt, journal=journal)
    assert len(journal.read_text().splitlines()) >= 2
    told = []
    found = locator.trace(
        lab, few, progress=lambda what, share: told.append(share), journal=journal
    )
    assert not journal.exists()
    assert len(told) < len(few.forget)
    assert found == trace(lab, few, window=1)


def test_a_journal_of_other_settings_is_begun_anew_and_another_file_is_spared(lab, few, tmp_path):
    journal = tmp_path / "trace.partial"
    journal.write_text(json.dumps({"unlearn_journal": "trace", "belongs_to": "else"}) + "\n")
    assert CausalTrace(alone()).trace(lab, few, journal=journal) == trace(lab, few)
    mine = tmp_path / "thesis.txt"
    mine.write_text("mine")
    with pytest.raises(InputError, match="not the journal"):
        CausalTrace().trace(lab, few, journal=mine)
    assert mine.read_text() == "mine"


def test_the_model_is_as_it_was_and_the_seed_decides(lab, few):
    before = {name: tensor.clone() for name, tensor in lab.model.state_dict().items()}
    sites, found = locate_and_trace(lab, few, seed=3)
    assert locate_and_trace(lab, few, seed=3) == (sites, found)
    for name, tensor in lab.model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in lab.model.modules())


def mean_effects(facts, kind):
    """Role to the mean over facts, of the mean over the fact's tokens of that role, a layer."""
    by_role = {}
    for fact in facts:
        for role in set(fact.roles):
            rows = [r for r, own in zip(fact.effects[kind], fact.roles, strict=True) if own == role]
            by_role.setdefault(role, []).append(np.mean(rows, axis=0))
    return {role: np.mean(rows, axis=0) for role, rows in by_role.items()}


@pytest.mark.parametrize("retain_records", [0, 8])
def test_modules_score_effects_at_the_subject_or_how_far_they_exceed_those_of_retain_records(
    lab, few, retain_records
):
    settings = {"window": "1", "top": "modules:5", "retain_records": str(retain_records)}
    sites, found = locate_and_trace(lab, few, method="causal-trace", settings=settings)
    assert bool(found.retained) == bool(retain_records)
    assert not {fact.id for fact in found.retained} & {fact.id for fact in found.records}
    for kind, part in (("mlp", "mlp.up_proj"), ("attention", "self_attn.q_proj")):
        forget = mean_effects(found.records, kind)
        if retain_records:
            retain = mean_effects(found.retained, kind)
            best = np.max([forget[r] - retain[r] for r in forget.keys() & retain.keys()], axis=0)
        else:
            best = np.max([forget[r] for r in forget if r.endswith("subject")], axis=0)
        for layer in range(8):
            score = sites.scores[f"model.layers.{layer}.{part}"]
            assert score == pytest.approx(best[layer], abs=1e-9)
    worst = min(sites.scores[name] for name in sites.modules)
    assert len(sites.modules) == 5
    assert worst >= max(sites.scores[name] for name in set(sites.scores) - set(sites.modules))
    assert sites.model_digest == lab.digest and sites.settings["window"] == 1


def test_retain_records_change_sites_and_nothing_else_of_a_trace(lab, few):
    with_retain = trace(lab, few, retain_records=8, window=1)
    assert with_retain.retained
    plain = trace(lab, few, window=1)
    settings = {**with_retain.settings, "retain_records": 0}
    assert with_retain.model_copy(update={"retained": (), "settings": settings}) == plain


def test_other_locators_make_no_trace(lab, few):
    assert locate_and_trace(lab, few, method="all").trace is None


@pytest.mark.parametrize("corruption", ["replace", "noise"])
@pytest.mark.parametrize("measure", ["logit-diff", "logprob", "probability"])
def test_every_score_goes_with_every_corruption(lab, few, corruption, measure):
    found = trace(lab, few, corruption=corruption, score=measure, samples=3, window=2)
    assert found.records
    for fact in found.records:
        assert (fact.foil_token_id is not None) == (measure == "logit-diff")
        assert (fact.noise is not None) == (corruption == "noise")
        n_tokens, n_layers = len(fact.token_ids), found.n_layers
        for grid in (*fact.effects.values(), *fact.severed.values()):
            assert [len(row) for row in grid] == [n_layers] * n_tokens
        # The whole stream of the answering token is clean again: nothing of the corruption is left
        # but, for a whole answer, what its later tokens read.
        if measure != "logprob":
            assert fact.effects["hidden"][-1][-1] == pytest.approx(fact.total_effect, abs=1e-4)
        ahead = fact.roles.index("first-subject")
        for grid in (*fact.effects.values(), *fact.severed.values()):
            assert all(abs(effect) < 1e-4 for row in grid[:ahead] for effect in row)


def test_without_mlps_nothing_comes_back_by_them_and_severing_them_takes_nothing(few):
    model = LanguageModel.load("lab:full")
    with torch.no_grad():
        for layer in range(model.anatomy.n_layers):
            down = model.anatomy.down_projection[layer]
            model.model.get_submodule(down).weight.zero_()
    said = run(model, model.encode(few.forget[0].prompt).ids).argsort(descending=True)
    token = next(t for t in map(int, said) if model.tokenizer.decode([t]).strip())
    known = few.forget[0].model_copy(
        update={"answer": model.tokenizer.decode([token]).strip(), "alternatives": ()}
    )
    found = trace(model, replace(few, forget=(known,)), corruption="noise", score="logprob")
    (fact,) = found.records
    assert all(abs(effect) < 1e-4 for row in fact.effects["mlp"] for effect in row)
    assert max(abs(effect) for row in fact.effects["hidden"] for effect in row) > 0.01
    for whole, without in zip(fact.effects["hidden"], fact.severed["mlp"], strict=True):
        assert without == pytest.approx(whole, abs=1e-4)


def test_a_subject_that_is_not_in_its_prompt_is_refused_by_the_records_id(lab, few):
    broken = few.forget[0].model_copy(update={"subject": "Nobody Here"})
    with pytest.raises(InputError, match=rf"{broken.id}.*does not occur") as caught:
        trace(lab, replace(few, forget=(broken,)))
    assert "Nobody" not in str(caught.value) and few.forget[0].subject not in str(caught.value)


def test_an_answer_that_yields_no_token_is_refused_by_the_records_id(model, forget_set):
    model.tokenizer.backend_tokenizer.normalizer = normalizers.Replace("~", "")
    broken = forget_set.forget[0].model_copy(update={"answer": "~"})
    with pytest.raises(InputError, match=rf"{broken.id}.*yields no token") as caught:
        trace(model, replace(forget_set, forget=(broken,)))
    assert broken.subject not in str(caught.value)


@pytest.mark.parametrize("where", ["model.layers.2", "model.layers.5.mlp", "lm_head"])
def test_an_error_leaves_no_hook_and_the_weights_as_they_were(lab, few, where):
    before = {name: tensor.clone() for name, tensor in lab.model.state_dict().items()}
    calls = []

    def fail(*_):
        calls.append(1)
        if len(calls) == 20:
            raise KeyboardInterrupt

    handle = lab.model.get_submodule(where).register_forward_pre_hook(fail)
    try:
        with pytest.raises(KeyboardInterrupt):
            trace(lab, few)
    finally:
        handle.remove()
    for module in lab.model.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks
        assert "forward" not in module.__dict__
    after = lab.model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_time_runs_out_only_after_a_record_that_could_be_traced(lab, few, monkeypatch):
    first_tried = []
    real = FactTracer.trace

    def reluctant(self, fact):
        first_tried.append(fact.record.id)
        if len(first_tried) == 1:
            return Skipped(id=fact.record.id, reason="no-replacement")
        return real(self, fact)

    monkeypatch.setattr(FactTracer, "trace", reluctant)
    ticks = iter(range(0, 1000, 10))
    locator = CausalTrace(CausalTraceConfig(max_seconds=1), clock=lambda: next(ticks))
    found = locator.trace(lab, few)
    assert len(found.records) == 1 and len(found.skipped) == 1
    assert len(found.not_covered) == len(few.forget) - 2


def test_a_resumed_trace_goes_on_by_a_record_however_little_time_it_has(lab, few, tmp_path):
    journal, uncovered = tmp_path / "trace.partial", []
    for _ in range(len(few.forget)):
        ticks = iter(range(0, 1000, 10))
        locator = CausalTrace(CausalTraceConfig(max_seconds=1), clock=lambda t=ticks: next(t))
        uncovered.append(len(locator.trace(lab, few, journal=journal).not_covered))
    assert uncovered == [3, 2, 1, 0]
    assert not journal.exists()


def test_a_journal_survives_separators_in_answers_and_a_line_cut_in_a_character(tmp_path):
    path = tmp_path / "trace.partial"
    entries = [
        Skipped(id=f"r{number}", reason="not-known", model_answer=answer)
        for number, answer in enumerate(("a\u2028b", "c\x85d", "e\nf"))
    ]
    journal = TraceJournal(path, "this")
    for entry in entries:
        journal.add(entry)
    with path.open("ab") as file:
        file.write('{"id":"r9","reason":"not-known","model_answer":"\u00e9'.encode()[:-1])
    assert list(TraceJournal(path, "this").entries.values()) == entries


def test_a_name_too_long_for_the_context_is_no_donor_and_no_error(lab, few):
    giant = few.neighbors[0].model_copy(
        update={"id": "giant", "subject": "Ann " * 600 + "Ott", "relation": few.forget[0].relation}
    )
    giant = giant.model_copy(update={"prompt": f"{giant.subject} was born in"})
    # So few donors that each of them is tried.
    crowded = replace(few, retain=(), holdout=(), neighbors=(*few.neighbors[:40], giant))
    without = trace(lab, replace(crowded, neighbors=crowded.neighbors[:-1]))
    assert len(without.records) == len(trace(lab, crowded).records) > 0


def test_a_record_that_was_asked_for_is_traced_and_changes_no_figure(lab, few):
    config = CausalTraceConfig(window=1, max_records=1)
    plain, everything = CausalTrace(config).trace(lab, few), trace(lab, few, window=1)
    ids = [record.id for record in few.forget]
    asked = CausalTrace(config).trace(lab, few, also=ids)
    assert asked.model_copy(update={"extra": ()}) == plain
    assert {fact.id for fact in (*asked.records, *asked.extra)} == set(ids)
    for fact in everything.records:
        other = asked.of(fact.id)
        assert other is not None and other.token_ids == fact.token_ids
        for kind in fact.effects:
            torch.testing.assert_close(
                torch.tensor(other.effects[kind]),
                torch.tensor(fact.effects[kind]),
                atol=1e-4,
                rtol=0,
            )
    assert {fact.cluster for fact in asked.extra} == {-1}
    assert locate_and_trace(lab, few, settings={"max_records": "1"}, also=ids).trace.extra


def test_a_record_that_was_asked_for_is_traced_after_the_time_and_not_journalled(
    lab, few, tmp_path
):
    ticks = iter(range(0, 1000, 10))
    locator = CausalTrace(CausalTraceConfig(max_seconds=15), clock=lambda: next(ticks))
    late = trace(lab, few)
    found = locator.trace(lab, few, also=[r.id for r in few.forget], journal=tmp_path / "kept")
    assert found.not_covered == tuple(fact.id for fact in found.extra)
    written = (tmp_path / "kept").read_text("utf-8")
    assert len(found.records) + len(found.extra) == len(late.records)
    assert not any(fact.id in written for fact in found.extra)


def test_what_was_asked_for_and_cannot_be_traced_says_why(lab, few):
    wrong = few.forget[0].model_copy(update={"answer": few.forget[0].alternatives[0]})
    wrong = wrong.model_copy(update={"alternatives": (), "subject": "Merro"})
    changed = replace(few, forget=(wrong, *few.forget[1:]))
    drawn = next(s for s in range(9) if wrong not in changed.sample("forget", 3, s))
    locator = CausalTrace(CausalTraceConfig(max_records=3))
    found = locator.trace(lab, changed, seed=drawn, also=[wrong.id])
    assert found.of(wrong.id) == found.extra[0]
    assert found.extra[0].reason == "not-known" and wrong.id not in {s.id for s in found.skipped}


def test_an_id_that_no_forget_record_has_is_refused_and_not_repeated(lab, whole):
    with pytest.raises(InputError, match="did you mean 'p000-birthplace-") as caught:
        CausalTrace().trace(lab, whole, also=["p000-birthplace-O"])
    assert "birthplace-O" not in str(caught.value)
    other = whole.neighbors[0].id
    with pytest.raises(InputError, match=f"{other}.*neighbors split"):
        CausalTrace().trace(lab, whole, also=[other])


def test_the_texts_of_tokens_are_those_of_the_prompt_and_split_characters_are_counted(lab, few):
    for record in few.forget:
        first, *rest = token_texts(lab, record)
        assert (first, "".join(rest)) == ("<s>", record.prompt)
    cut = few.forget[0].model_copy(update={"prompt": "Brentro Merro 東 was born in"})
    texts = token_texts(lab, cut)
    assert texts[3:8] == [" ", "東(1/3)", "東(2/3)", "東(3/3)", " was"]
    assert len(texts) == len(read_fact(lab, cut).prompt_ids)
