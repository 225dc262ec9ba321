"""Policies: what is done to the prompts of untouched weights, on disk and back, open and sealed."""

import hashlib
import json
import stat

import numpy as np
import pytest
import torch
from test_artifact import SET_DIGEST, bits, build, changed_copy, provenance, same

from unlearn.artifact import Artifact, FullWeights
from unlearn.errors import ArtifactError
from unlearn.inference_policy import InferencePolicy
from unlearn.model.gates import GateRates, KeyGate, Rate, Spread, TermGate, WordGate
from unlearn.model.policy import NOTHING, Corruption
from unlearn.model.prompt_policy import PromptPolicy
from unlearn.model.terms import Keyed, Terms
from unlearn.sealing import naming_key, new_key, read_policy_key, seal, unseal

QUILL = Terms.of(["Ada Quill"])
WORDS = PromptPolicy(gate=TermGate(terms=QUILL), guard="a b ", demonstrations=("b a ",))
RATES = GateRates(missed=Rate(events=1, n=8, low=0.003, high=0.527), false_alarms=None)


@pytest.fixture
def original():
    return build()


@pytest.fixture
def saved(original, tmp_path):
    made = InferencePolicy.on(
        original, WORDS, provenance(), forget_set_digest=SET_DIGEST, gate_rates=RATES
    )
    made.save(tmp_path / "policy")
    return tmp_path / "policy"


def secret_policy(key, **changes):
    """A policy that would tell who is meant, its terms hashed under the key."""
    secret = naming_key(key)
    policy = PromptPolicy(
        gate=TermGate(terms=Terms.of(["Ada Quill"], Keyed(secret))),
        demonstrations=("Ada Quill was born in Tarn. ",),
        guard="Nothing of Ada Quill! ",
        secret=secret.hex(),
    )
    return policy.model_copy(update=changes)


@pytest.fixture
def sealed(original, tmp_path):
    key = new_key()
    made = InferencePolicy.on(
        original, secret_policy(key), provenance(), forget_set_digest=SET_DIGEST, policy_key=key
    )
    made.save(tmp_path / "sealed")
    return tmp_path / "sealed"


def test_apply_and_revert_change_the_policy_alone_after_a_trip_to_disk(original, saved):
    before = bits(original)
    artifact = Artifact.load(saved)
    assert type(artifact) is InferencePolicy and artifact.threat_model == "served-only"
    served = artifact.apply(original)
    assert (served.policy, original.policy) == (WORDS, NOTHING)
    assert served.encode("Ada Quill").ids == original.encode("b a a b Ada Quill").ids
    assert served.encode("a") == original.encode("a")
    assert served.digest == artifact.provenance.result_digest != original.digest
    back = artifact.revert(served)
    assert back.digest == original.digest == artifact.provenance.base_digest
    assert back.encode("Ada Quill") == original.encode("Ada Quill")
    assert same(bits(original), before) and same(bits(served), before) and same(bits(back), before)
    assert served.policy == WORDS


@pytest.mark.parametrize(
    "policy",
    [
        WORDS,
        PromptPolicy(reply=" b"),
        PromptPolicy(
            gate=WordGate(weights={"a": (1.5, -0.25), "b": (1.0, 2.0)}, bias=-0.5, threshold=0.1),
            corruption=Corruption(kind="zero", strength=0.5, seed=3),
            subjects=QUILL,
            chat=True,
        ),
        PromptPolicy(
            gate=KeyGate(
                metric="mahalanobis",
                at="subject",
                keys={1: ((0.1, -2.0),)},
                spreads={1: Spread((0.5, 0.0), ((1.0, 2.0),))},
                threshold=-3.0,
            ),
            guard="a ",
        ),
    ],
    ids=["words", "reply", "tfidf", "key"],
)
@pytest.mark.parametrize("is_sealed", [False, True])
def test_a_policy_comes_back_as_it_was(original, tmp_path, policy, is_sealed):
    key = new_key() if is_sealed else None
    if key is not None:
        policy = policy.model_copy(update={"secret": naming_key(key).hex()})
    made = InferencePolicy.on(original, policy, provenance(), gate_rates=RATES, policy_key=key)
    made.save(tmp_path / "policy")
    loaded = Artifact.load(tmp_path / "policy")
    assert (loaded.policy, loaded.gate_rates, loaded.policy_key) == (policy, RATES, key)
    assert loaded.apply(original).digest == made.provenance.result_digest


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
    with pytest.raises(ArtifactError, match="already has a policy"):
        InferencePolicy.on(served, WORDS, provenance())
    with pytest.raises(ArtifactError, match="does nothing to any prompt"):
        InferencePolicy.on(original, PromptPolicy(gate=WORDS.gate), provenance())


def test_full_weights_of_a_served_model_do_not_fit_the_bare_one(original, saved):
    served = Artifact.load(saved).apply(original)
    update = FullWeights.between(served, changed_copy(served), provenance())
    assert update.apply(served).policy == WORDS
    with pytest.raises(ArtifactError, match="fits a model"):
        update.apply(original)


def test_its_limits_say_where_it_holds_what_it_gives_away_and_how_its_gate_errs(original, saved):
    served_only, in_clear, shown, rates = Artifact.load(saved).limits
    assert served_only.startswith("Served-only:")
    assert "whoever has the weights has the data" in served_only
    assert "holds data that was to be forgotten, in clear" in in_clear
    assert "shows by that who is to be forgotten" in shown
    assert "missed 1 of 8 (0.3% to 52.7%), false alarms not measured" in rates
    assert json.loads((saved / "policy.json").read_text())["gives_away"] == [in_clear, shown]
    assert FullWeights.between(original, changed_copy(original), provenance()).limits == ()


def test_the_limits_of_a_sealed_one_say_what_it_still_reveals(sealed):
    _, told, _ = Artifact.load(sealed).limits
    assert "sealed" in told and "how many terms" in told and "test any guess" in told


def test_changed_words_are_detected(saved):
    text = (saved / "policy.json").read_text(encoding="utf-8")
    (saved / "policy.json").write_text(text.replace("a b", "b a"), encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"policy\.json is damaged"):
        Artifact.load(saved)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "not valid JSON"),
        ('{"policy": {"guard": "a", "answer": "Tarn"}}', "is not a known field"),
        ('{"policy": {"guard": 3}}', "must be a string"),
        ('{"policy": {"gate": {"kind": "Tarn"}}}', "is of no known kind"),
        ("{}", "policy': is missing"),
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


def test_saving_twice_gives_one_and_the_same_files(saved, tmp_path):
    Artifact.load(saved).save(tmp_path / "again")
    for name in ("policy.json", "artifact.json"):
        assert (tmp_path / "again" / name).read_bytes() == (saved / name).read_bytes()
    manifest = json.loads((saved / "artifact.json").read_text())
    wanted = hashlib.sha256((saved / "policy.json").read_bytes()).hexdigest()
    assert manifest["files"] == {"policy.json": wanted}
    assert "Ada" not in (saved / "artifact.json").read_text()


def test_a_sealed_folder_holds_nothing_personal_but_works(original, sealed):
    told = b"".join(
        file.read_bytes() for file in sealed.iterdir() if not file.name.endswith(".key")
    ).lower()
    # Longer than what a digest or a cipher spells by chance, as one spelt "ada".
    for text in (b"ada quill", b"quill", b"born in", b"in tarn", b"nothing of"):
        assert text not in told
    served = Artifact.load(sealed).apply(original)
    assert served.policy.treat(original, ["ADA QUILL?", "Ada"])[0].fronts[0] == (
        "Ada Quill was born in Tarn. Nothing of Ada Quill! "
    )
    assert served.encode("Ada") == original.encode("Ada")


def test_the_key_of_a_sealed_policy_is_its_owners_alone_and_no_part_of_the_checksums(sealed):
    assert stat.S_IMODE((sealed / "policy.key").stat().st_mode) == 0o600
    assert set(json.loads((sealed / "artifact.json").read_text())["files"]) == {"policy.json"}
    key = read_policy_key(sealed).hex()
    assert key not in (sealed / "policy.json").read_text()
    assert naming_key(bytes.fromhex(key)).hex() not in (sealed / "policy.json").read_text()


def test_the_digest_of_a_sealed_policy_is_no_test_of_a_guess(original):
    digests = set()
    for _ in range(2):
        key = new_key()
        made = InferencePolicy.on(original, secret_policy(key), provenance(), policy_key=key)
        digests.add(made.provenance.result_digest)
    assert len(digests) == 2


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("00" * 32 + "\n", r"policy\.key does not open this policy"),
        ("00" * 31, "is not a key of 32 bytes"),
        ("Tarn", "is not a key of 32 bytes"),
        (None, "is sealed and its policy.key is not there"),
    ],
)
def test_a_wrong_a_broken_and_a_missing_key_are_told_apart(sealed, content, reason):
    (sealed / "policy.key").unlink()
    if content is not None:
        (sealed / "policy.key").write_text(content)
    with pytest.raises(ArtifactError, match=reason):
        Artifact.load(sealed)


def test_a_sealed_part_that_was_changed_does_not_open():
    key = new_key()
    text = seal(b"Tarn", key)
    assert unseal(text, key) == b"Tarn"
    for broken in (text[:-8] + "AAAAAAA=", "no base64!", "", "AAAA"):
        with pytest.raises(ArtifactError, match="does not open"):
            unseal(broken, key)
    assert seal(b"Tarn", key) != text


def test_keys_of_the_model_are_sealed_too(original, tmp_path):
    key = new_key()
    vector = tuple(np.linspace(-0.123456789, 0.987654321, 5).tolist())
    gate = KeyGate(keys={0: (vector,)}, spreads={0: Spread(vector)})
    policy = secret_policy(key, gate=gate)
    InferencePolicy.on(original, policy, provenance(), policy_key=key).save(tmp_path / "sealed")
    assert b"0.123456789" not in (tmp_path / "sealed" / "policy.json").read_bytes()
    assert Artifact.load(tmp_path / "sealed").policy == policy
