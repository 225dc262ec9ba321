"""Policies: words before the prompts of untouched weights, on disk and back."""

import hashlib
import json

import pytest
import torch
from test_artifact import SET_DIGEST, bits, build, changed_copy, provenance, same

from unlearn.artifact import Artifact, FullWeights
from unlearn.errors import ArtifactError
from unlearn.inference_policy import InferencePolicy
from unlearn.model.preamble import Preamble

WORDS = Preamble(text="a b ", refusal="b ", when=("Ada Quill",))


@pytest.fixture
def original():
    return build()


@pytest.fixture
def saved(original, tmp_path):
    made = InferencePolicy.on(original, WORDS, provenance(), forget_set_digest=SET_DIGEST)
    made.save(tmp_path / "policy")
    return tmp_path / "policy"


def test_apply_and_revert_change_the_words_alone_after_a_trip_to_disk(original, saved):
    before = bits(original)
    policy = Artifact.load(saved)
    assert type(policy) is InferencePolicy and policy.threat_model == "served-only"
    served = policy.apply(original)
    assert (served.preamble, original.preamble) == (WORDS, Preamble())
    assert served.encode("a").ids == original.encode("a b a").ids
    assert served.digest == policy.provenance.result_digest != original.digest
    back = policy.revert(served)
    assert back.digest == original.digest == policy.provenance.base_digest
    assert back.encode("a") == original.encode("a")
    assert same(bits(original), before) and same(bits(served), before) and same(bits(back), before)
    assert served.preamble == WORDS


def test_the_copy_has_tensors_of_its_own(original, saved):
    served = Artifact.load(saved).apply(original)
    before = bits(original)
    with torch.no_grad():
        next(served.model.parameters()).zero_()
    assert same(bits(original), before)


def test_the_key_ties_it_to_its_forget_set(saved):
    policy = Artifact.load(saved)
    assert policy.concerns(SET_DIGEST) and not policy.concerns("0" * 64)


def test_another_base_is_refused(original, saved):
    policy, other = Artifact.load(saved), changed_copy(original)
    with pytest.raises(ArtifactError, match="fits a model with digest"):
        policy.apply(other)
    for not_the_result in (original, other, policy.apply(original).copy().__class__(
        other.model, other.tokenizer, "memory", WORDS
    )):  # fmt: skip
        with pytest.raises(ArtifactError, match="fits a model with digest"):
            policy.revert(not_the_result)


def test_a_policy_on_a_policy_and_an_empty_one_are_refused(original, saved):
    served = Artifact.load(saved).apply(original)
    with pytest.raises(ArtifactError, match="already has an instruction"):
        InferencePolicy.on(served, WORDS, provenance())
    with pytest.raises(ArtifactError, match="puts nothing before"):
        InferencePolicy.on(original, Preamble(), provenance())


def test_full_weights_of_a_served_model_do_not_fit_the_bare_one(original, saved):
    served = Artifact.load(saved).apply(original)
    update = FullWeights.between(served, changed_copy(served), provenance())
    assert update.apply(served).preamble == WORDS
    with pytest.raises(ArtifactError, match="fits a model"):
        update.apply(original)


def test_its_limits_say_that_it_holds_only_where_it_is_served(original, saved):
    (limit,) = Artifact.load(saved).limits
    assert limit.startswith("Served-only:") and "whoever has the weights has the data" in limit
    assert FullWeights.between(original, changed_copy(original), provenance()).limits == ()


def test_changed_words_are_detected(saved):
    text = (saved / "policy.json").read_text(encoding="utf-8")
    (saved / "policy.json").write_text(text.replace("a b", "b a"), encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"policy\.json is damaged"):
        Artifact.load(saved)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "not valid JSON"),
        ('{"text": "a", "answer": "Tarn"}', "not a known field"),
        ('{"text": 3}', "must be a string"),
    ],
)
def test_a_payload_that_is_no_policy_is_named_without_its_text(saved, content, reason):
    manifest = Artifact.load(saved)
    (saved / "policy.json").write_text(content, encoding="utf-8")
    with pytest.raises(ArtifactError, match=reason) as caught:
        InferencePolicy.read_payload(saved, manifest.provenance, None)
    assert "Tarn" not in str(caught.value)


def test_a_policy_file_that_is_missing_is_named(saved, tmp_path):
    loaded = Artifact.load(saved)
    with pytest.raises(ArtifactError, match="does not read"):
        InferencePolicy.read_payload(tmp_path, loaded.provenance, None)


def test_saving_twice_gives_one_and_the_same_file_that_only_holds_the_words(saved, tmp_path):
    Artifact.load(saved).save(tmp_path / "again")
    for name in ("policy.json", "artifact.json"):
        assert (tmp_path / "again" / name).read_bytes() == (saved / name).read_bytes()
    assert json.loads((saved / "policy.json").read_text()) == {
        "text": "a b ", "refusal": "b ", "when": ["Ada Quill"]
    }  # fmt: skip
    manifest = json.loads((saved / "artifact.json").read_text())
    wanted = hashlib.sha256((saved / "policy.json").read_bytes()).hexdigest()
    assert manifest["files"] == {"policy.json": wanted}
    assert "Ada" not in (saved / "artifact.json").read_text()
