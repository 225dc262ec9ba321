"""Which tokens an edit acts on, and which of them share a value."""

from __future__ import annotations

import pytest
import torch

from unlearn.model.activations import read_inputs
from unlearn.model.language_model import LanguageModel
from unlearn.strategies.spots import find_row, find_spots, keys_at, moment_of_spots
from unlearn.types import Record, Statement


def record(prompt: str, answer: str, subject: str = "Ada Quill", relation: str = "x") -> Record:
    return Record(
        id=f"{prompt}{answer}", subject=subject, relation=relation, prompt=prompt, answer=answer
    )


BORN = record("Ada Quill was born in", "Old Wick")
WORKS = record("Ada Quill works as a", "cooper")


def test_the_spots_of_an_answer_predict_its_tokens_and_a_subject_s_is_its_end(model) -> None:
    # Ada Quill was born in | Old Wick
    assert find_row(model, 0, BORN, "answer").positions == (4, 5)
    assert find_row(model, 0, BORN, "prompt").positions == (4,)
    assert find_row(model, 0, BORN, "subject").positions == (1,)
    assert find_row(model, 0, BORN, "subject-first").positions == (0,)


def test_behind_a_prefix_the_same_tokens_are_found(model) -> None:
    """No adding up of lengths of pieces: BOS and blanks belong to the whole text."""
    for at in ("answer", "subject", "subject-first", "prompt"):
        bare = find_row(model, 0, BORN, at)
        moved = find_row(model, 0, BORN, at, "born in Tarn ")
        assert [bare.encoding.ids[p] for p in bare.positions] == [
            moved.encoding.ids[p] for p in moved.positions
        ]
        assert [p + 3 for p in bare.positions] == list(moved.positions)


def test_all_facts_of_a_subject_share_one_value_there(model) -> None:
    other = record("Bero Rusk works as a", "miller", "Bero Rusk")
    spots = find_spots(model, [BORN, WORKS, other], "subject")
    assert spots.groups == ((0,), (0,), (1,)) and spots.n_values == 2
    assert len(spots.lookups) == 2, "the tokens up to the name's end are the same"


def test_what_stands_before_a_name_makes_another_key_of_the_same_value(model) -> None:
    later = record("was born Ada Quill in", "Tarn")
    spots = find_spots(model, [BORN, later], "subject")
    assert spots.n_values == 1 and spots.owners.tolist() == [0, 0] and len(spots.lookups) == 2


def test_answers_have_a_value_for_each_key_and_one_where_keys_are_equal(model) -> None:
    twice = record("Ada Quill was born in", "Tarn")
    spots = find_spots(model, [BORN, twice, WORKS], "answer")
    assert spots.groups == ((0, 1), (0,), (2,))
    assert len(spots.lookups) == spots.n_values == 3


def test_keys_are_what_goes_into_the_down_projection_and_not_into_the_activation(model) -> None:
    spots = find_spots(model, [BORN, WORKS], "answer")
    keys = keys_at(model, spots, [1])[1]
    name = model.anatomy.require_down_projection(1)
    assert keys.shape == (3, model.model.get_submodule(name).in_features)
    ids = model.encode(BORN.prompt, BORN.completion).ids
    by_hand = read_inputs(model, [name], [ids]).of[name][0, [4, 5]].double()
    torch.testing.assert_close(keys[:2], by_hand, rtol=1e-4, atol=1e-5)


def test_a_key_is_averaged_over_the_bare_prompt_and_the_prefixed_ones(model) -> None:
    spots = find_spots(model, [WORKS], "subject")
    prefixes = ("born in Tarn ", "red ")
    name = model.anatomy.require_down_projection(2)
    rows = [find_row(model, 0, WORKS, "subject", prefix) for prefix in ("", *prefixes)]
    each = [
        read_inputs(model, [name], [row.encoding.ids]).of[name][0, row.positions[0]] for row in rows
    ]
    found = keys_at(model, spots, [2], prefixes)[2][0]
    torch.testing.assert_close(found, torch.stack(each).mean(0).double(), rtol=1e-4, atol=1e-5)


def test_the_mean_by_value_is_over_the_keys_of_that_value(model) -> None:
    later = record("was born Ada Quill in", "Tarn")
    spots = find_spots(model, [BORN, later], "subject")
    keys = torch.tensor([[1.0, 3.0], [3.0, 5.0]])
    assert spots.mean_by_value(keys).tolist() == [[2.0, 4.0]]


@pytest.mark.parametrize("at", ["answer", "subject"])
def test_the_moment_is_the_mean_outer_product_of_the_keys_there(model: LanguageModel, at) -> None:
    records = [BORN, WORKS, record("Bero Rusk works as a", "miller", "Bero Rusk")]
    name = model.anatomy.require_down_projection(0)
    keys = []
    for one in records:
        row = find_row(model, 0, one, at)
        keys.append(read_inputs(model, [name], [row.encoding.ids]).of[name][0, list(row.positions)])
    stacked = torch.cat(keys).double()
    found = moment_of_spots(model, records, [0], at)[0]
    torch.testing.assert_close(found, stacked.T @ stacked / len(stacked), rtol=1e-4, atol=1e-6)


def test_a_statement_without_a_subject_counts_with_all_its_prompt(model) -> None:
    bare = Statement(prompt="Ada Quill was born in", answer="Tarn")
    name = model.anatomy.require_down_projection(0)
    keys = read_inputs(model, [name], [model.encode(bare.prompt).ids]).of[name][0].double()
    found = moment_of_spots(model, [bare], [0], "subject")[0]
    torch.testing.assert_close(found, keys.T @ keys / len(keys), rtol=1e-4, atol=1e-6)
