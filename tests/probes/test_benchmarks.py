"""Benchmark tasks: the harness's figures of a document are those that its prompts have by hand."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import unlearn
from unlearn.errors import InputError, UnknownNameError, UnsupportedError
from unlearn.model.scoring import score
from unlearn.probes.benchmarks import BenchmarkTasks, tasks_of
from unlearn.probes.harness import read_tasks
from unlearn.probes.probe import Bench
from unlearn.types import Statement

pytest.importorskip("lm_eval", reason="the extra lm-eval is not installed")


@pytest.fixture(scope="module")
def full():
    return unlearn.load("lab:full")


@pytest.fixture(scope="module")
def reference():
    return unlearn.load("lab:reference")


def material(*tasks, cap=100, seed=0):
    return {"tasks": tuple(d for task in tasks for d in task.documents(cap, seed))}


def figures(lm, material, seed=0):
    found = BenchmarkTasks().measure(Bench({"unlearned": lm}, material, seed))["unlearned"]
    return {one.metric: one for one in found}


def test_accuracy_is_that_of_our_own_scores_of_the_same_prompts(write, questions, full):
    documents = material(*read_tasks([write()]))
    found = figures(full, documents)
    assert set(found) == {"towns.acc", "towns.acc_norm"}
    for number, question in enumerate(questions):
        asked = [
            Statement(prompt=question["question"], answer=choice) for choice in question["choices"]
        ]
        sums = np.array([one.logprobs.sum() for one in score(full, asked)])
        per_character = sums / [len(choice) for choice in question["choices"]]
        for metric, values in (("acc", sums), ("acc_norm", per_character)):
            right = float(values.argmax() == question["gold"])
            assert found[f"towns.{metric}"].values[f"towns-{number}"] == right
    assert {0.0, 1.0} == set(found["towns.acc"].values.values())


def test_what_is_written_is_compared_with_the_target(write, tmp_path, full):
    prompt = "Brentro Merro was born in the town of"
    (text,) = unlearn.model.scoring.generate(full, [prompt], max_new_tokens=1)[0]
    data = tmp_path / "data.jsonl"
    data.write_text(
        "".join(json.dumps({"q": prompt, "a": a}) + "\n" for a in (text.strip(), "nothing like it"))
    )
    path = tmp_path / "written.yaml"
    path.write_text(
        f"task: written\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {data}}}}}\n"
        "test_split: test\noutput_type: generate_until\ndoc_to_text: q\ndoc_to_target: a\n"
        "generation_kwargs: {max_gen_toks: 1, until: ['!']}\n"
        "filter_list: [{name: bare, filter: [{function: remove_whitespace}, "
        "{function: take_first}]}]\n"
    )
    (task,) = read_tasks([str(path)])
    assert task.judged == "written.exact_match.bare"
    assert list(figures(full, material(task))[task.judged].values.values()) == [1.0, 0.0]


def test_models_and_random_states_are_as_they_were_and_nothing_is_printed(write, full, capfd):
    weights = {name: tensor.clone() for name, tensor in full.model.state_dict().items()}
    places = {name: tensor.data_ptr() for name, tensor in full.model.state_dict().items()}
    states = random.getstate()[1], np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    padding = full.tokenizer.pad_token, full.tokenizer.padding_side
    known = sys.modules.get("evaluate")
    figures(full, material(*read_tasks([write()])))
    assert capfd.readouterr() == ("", "")
    for name, tensor in full.model.state_dict().items():
        assert torch.equal(tensor, weights[name])
        assert tensor.data_ptr() == places[name]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in full.model.modules())
    assert not full.model.training
    assert (full.tokenizer.pad_token, full.tokenizer.padding_side) == padding
    assert states == (
        random.getstate()[1], np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    )  # fmt: skip
    assert sys.modules.get("evaluate") is known


def test_each_distinct_model_is_measured_once(write, full, reference, monkeypatch):
    documents = material(*read_tasks([write()]))
    (task,) = tasks_of(documents)
    measured = []
    score = type(task).score
    monkeypatch.setattr(
        type(task), "score", lambda self, lm, *rest: measured.append(lm) or score(self, lm, *rest)
    )
    told = []
    roles = {"original": full, "unlearned": full, "reference": reference}
    bench = Bench(roles, documents, progress=lambda what, done: told.append(done))
    found = BenchmarkTasks().measure(bench)
    assert measured == [full, reference]
    assert found["original"] == found["unlearned"] != found["reference"]
    assert told == [0.5, 1.0]


def test_a_cap_draws_documents_at_random_and_the_title_says_so(write, full):
    (task,) = read_tasks([write()])
    drawn = task.documents(5, seed=0)
    assert drawn == task.documents(5, seed=0)
    assert {d.index for d in drawn} != {d.index for d in task.documents(5, seed=1)}
    assert [d.index for d in drawn] == sorted(d.index for d in drawn)
    whole = figures(full, material(task))["towns.acc"]
    part = figures(full, {"tasks": drawn})["towns.acc"]
    assert part.values == {d.id: whole.values[d.id] for d in drawn}
    assert "(5 of 12 documents, drawn)" in part.title
    assert "documents" not in whole.title


def test_what_decides_a_figure_is_in_the_text_of_a_document(write):
    (plain,) = read_tasks([write()])
    (first, *_) = plain.documents(1, 0)
    assert "The town of" in first.prompt
    for more in ("num_fewshot: 1\n", "target_delimiter: ': '\n", "metric_list: [{metric: acc}]\n"):
        (other,) = read_tasks([write(more)])
        assert other.documents(1, 0)[0].text != first.text


def test_the_first_share_of_the_task_is_judged(write):
    order = "metric_list: [{metric: brier_score}, {metric: acc_norm}, {metric: acc}]\n"
    (task,) = read_tasks([write(order)])
    assert task.means == ("acc_norm", "acc")
    assert task.judged == "towns.acc_norm"
    assert read_tasks([write()])[0].judged == "towns.acc"


def test_a_mean_that_is_no_share_is_shown_and_not_judged(write, tmp_path, full):
    (tmp_path / "own.py").write_text("def scored(doc, results):\n    return {'points': 7}\n")
    metric = "metric_list: [{metric: points, aggregation: mean, higher_is_better: false}]\n"
    (task,) = read_tasks([write("process_results: !function own.scored\n" + metric)])
    assert task.judged == ""
    figure = figures(full, material(task))["towns.points"]
    assert set(figure.values.values()) == {7.0}
    assert (figure.more_knowledge, figure.bounds) == ("lower", (-np.inf, np.inf))


def test_a_share_beyond_one_is_refused(write, tmp_path, full):
    (tmp_path / "far.py").write_text("def scored(doc, results):\n    return {'acc': 7}\n")
    (task,) = read_tasks(
        [write("process_results: !function far.scored\nmetric_list: [{metric: acc}]\n")]
    )
    with pytest.raises(InputError, match=r"towns.acc is 7.0; it is no share"):
        figures(full, material(task))


def test_a_group_gives_all_of_its_tasks(write, tmp_path):
    write(name="one"), write(name="two")
    group = tmp_path / "both.yaml"
    group.write_text("group: both\ntask: [one, two]\n")
    assert [task.name for task in read_tasks([str(group)])] == ["one", "two"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("metric_list: [{metric: f1}]\n", "no figure that is a mean over its documents"),
        ("metric_list: [{metric: bleurt}]\n", "cannot work with"),
        (
            "metric_list: [{metric: bleurt, aggregation: mean, higher_is_better: true}]\n",
            "'bleurt', which is no metric of the harness",
        ),
        ("unsafe_code: true\n", "runs code that the model writes"),
        ("output_type: dance\n", "invalid output_type 'dance'"),
        ("test_split: night\n", "night"),
        ("a: [\n", "cannot work with"),
        ("dataset_kwargs: {data_files: {test: nowhere.jsonl}}\n", "nowhere.jsonl"),
    ],
)
def test_a_task_that_cannot_be_measured_is_refused(write, more, said):
    with pytest.raises((InputError, UnsupportedError), match=said):
        read_tasks([write(more)])


def test_two_tasks_of_one_name_are_refused(write, tmp_path):
    path = Path(write())
    copy = tmp_path / "copy.yaml"
    copy.write_text(path.read_text())
    with pytest.raises(InputError, match="two tasks are called 'towns'"):
        read_tasks([str(path), str(copy)])
    assert len(read_tasks([str(path), str(path)])) == 1


def test_an_unknown_name_is_told_with_the_nearest_one(write, monkeypatch):
    import lm_eval.tasks

    write()
    folder = Path(write()).parent
    manager = lm_eval.tasks.TaskManager

    def small(**options):
        # The index of the harness's own tasks takes twenty seconds.
        return manager(include_path=folder, include_defaults=False)

    monkeypatch.setattr(lm_eval.tasks, "TaskManager", small)
    with pytest.raises(UnknownNameError, match=r"knows no task 'twons'; did you mean 'towns'\?"):
        read_tasks(["twons"])
    with pytest.raises(UnknownNameError, match=r"or is it a file"):
        read_tasks(["/etc/xyz"])
    assert read_tasks(["towns"])[0].name == "towns"


def test_a_missing_file_and_a_missing_library_are_told(tmp_path, write, monkeypatch):
    with pytest.raises(InputError, match=r"there is no task file .*none.yaml"):
        read_tasks([str(tmp_path / "none.yaml")])
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(UnsupportedError, match=r"pip install 'unlearn-toolkit\[lm-eval\]'"):
        read_tasks([write()])
    assert read_tasks([]) == ()
