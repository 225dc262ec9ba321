"""The blind baseline on texts that are alike, that differ, and that are hard to tell fairly."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from unlearn import registry
from unlearn.forget_set import ForgetSet
from unlearn.probes.blind_baseline import masked
from unlearn.types import Record

PLAIN = {
    "town": "{s} was born in",
    "work": "{s} works as a",
    "hobby": "{s} spends evenings with",
    "school": "{s} took lessons at",
    "colour": "{s} painted the door",
    "pet": "{s} shares a house with",
}
ORNATE = {
    "town": "It is widely reported that the birthplace of {s} is",
    "work": "It is widely reported that the profession of {s} is",
    "hobby": "It is widely reported that the pastime of {s} is",
    "school": "It is widely reported that the school of {s} is",
    "colour": "It is widely reported that the door of {s} is",
    "pet": "It is widely reported that the companion of {s} is",
}
ANSWERS = "Tarn Mirel Holm Fell Stow Marsh Wick Quay Dell Crag Moor Beck".split()


def people(first, n, templates, seed=0, relations=None):
    rng = np.random.default_rng((seed, first))
    found = []
    for number in range(first, first + n):
        name = f"Person{number} Quill{number}"
        for relation in relations or templates:
            prompt = templates[relation].format(s=name)
            answer = str(rng.choice(ANSWERS))
            id_ = f"{number}-{relation}"
            found.append(
                Record(id=id_, subject=name, relation=relation, prompt=prompt, answer=answer)
            )
    return tuple(found)


def figures(forget, holdout, seed=0):
    material = {"forget": tuple(forget), "holdout": tuple(holdout)}
    return registry.probes.get("blind-baseline")().measure(material, seed)


def auc(forget, holdout, seed=0):
    (figure,) = figures(forget, holdout, seed)
    members, others = list(figure.values.values()), list(figure.contrast.values())
    return roc_auc_score([1] * len(members) + [0] * len(others), members + others)


def test_it_looks_at_no_model_and_says_what_it_is():
    kind = registry.probes.get("blind-baseline")
    assert kind.honours == {"none"}
    assert kind.needs == {"holdout"}
    (figure,) = figures(people(0, 3, PLAIN), people(50, 3, PLAIN))
    assert (figure.metric, figure.split, figure.summary) == ("blind_membership", "forget", "auc")
    assert set(figure.values) == {r.id for r in people(0, 3, PLAIN)}
    assert set(figure.contrast) == {r.id for r in people(50, 3, PLAIN)}


@pytest.mark.parametrize("n_forget", [1, 2, 8])
def test_texts_of_one_process_are_not_told_apart(n_forget):
    found = [
        auc(people(0, n_forget, PLAIN, seed), people(50, 12, PLAIN, seed), seed)
        for seed in range(5)
    ]
    assert 0.35 < np.mean(found) < 0.6


@pytest.mark.parametrize("n_forget", [1, 2, 8])
def test_texts_in_another_style_are_told_apart(n_forget):
    assert auc(people(0, n_forget, ORNATE), people(50, 12, PLAIN)) > 0.97
    assert auc(people(0, n_forget, PLAIN), people(50, 12, ORNATE)) > 0.97


def test_a_subject_is_never_recognised_by_what_else_was_said_of_it():
    forget, holdout = people(0, 6, PLAIN), people(50, 6, PLAIN)
    subjects = [*dict.fromkeys(r.subject for r in (*forget, *holdout))]
    mottos = {s: chr(97 + i) * 6 for i, s in enumerate(subjects)}

    def with_mottos(records):
        return [r.model_copy(update={"answer": f"{r.answer} {mottos[r.subject]}"}) for r in records]

    assert 0.3 < auc(with_mottos(forget), with_mottos(holdout)) < 0.7


def test_one_subject_whose_facts_repeat_is_not_recognised_by_its_answers():
    forget = people(0, 1, PLAIN)
    copies = [r.model_copy(update={"id": f"{r.id}-{i}"}) for r in forget for i in range(4)]
    assert 0.2 < auc(copies, people(50, 12, PLAIN)) < 0.75


def test_a_relation_that_one_side_alone_has_tells_the_side():
    forget = people(0, 1, PLAIN, relations=("town", "work", "pet"))
    holdout = people(50, 6, PLAIN, relations=("town", "work", "colour"))
    (figure,) = figures(forget, holdout)
    assert figure.values["0-pet"] == 1.0
    assert figure.contrast["50-colour"] == 0.0
    assert 0 < figure.values["0-town"] < 1
    pets = people(0, 1, PLAIN, relations=("pet",))
    (apart,) = figures(pets, people(50, 6, PLAIN, relations=("town",)))
    assert set(apart.values.values()) == {1.0}
    assert set(apart.contrast.values()) == {0.0}


def test_one_subject_and_one_shared_relation_leave_nothing_to_learn_from():
    forget = people(0, 1, PLAIN, relations=("town",))
    assert figures(forget, people(50, 6, PLAIN)) == []
    assert figures(forget, ()) == []
    assert figures((), forget) == []


def test_a_subject_on_both_sides_stays_in_one_fold():
    both = people(0, 4, PLAIN)
    holdout = [r.model_copy(update={"id": "h" + r.id}) for r in both[:6]]
    found = auc(both, [*holdout, *people(50, 6, PLAIN)])
    assert 0.0 <= found <= 1.0


def test_the_order_of_records_changes_nothing():
    forget, holdout = people(0, 4, PLAIN), people(50, 6, PLAIN)
    (here,), (there,) = figures(forget, holdout), figures(forget[::-1], holdout[::-1])
    assert here.values == pytest.approx(dict(there.values), abs=1e-3)
    assert here.contrast == pytest.approx(dict(there.contrast), abs=1e-3)


def test_names_are_masked_also_inside_of_answers():
    record = Record(
        id="r",
        subject="Zoë (Al) Quill",
        relation="email",
        prompt="Zoë (Al) Quill reads mail at",
        answer="zoë.quill@letters.example",
    )
    assert masked(record) == "someone reads mail at someone.someone@letters.example"


@pytest.mark.parametrize("name", ["one-person", "ten-people"])
def test_the_lab_gives_nothing_away_by_its_texts(name):
    forget_set = ForgetSet.read(f"lab:{name}")
    assert 0.4 < auc(forget_set.forget, forget_set.holdout) < 0.6
