"""Requests one after the other on one model: what lies beneath, and what may be taken out."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from unlearn.adapter import Adapter
from unlearn.artifact import Artifact
from unlearn.errors import ArtifactError
from unlearn.forget_set import ForgetSet
from unlearn.model.language_model import LanguageModel
from unlearn.strategies import forget

Run = Callable[..., Result]
FAST = ("--set", "stop=budget", "--set", "learning_rate=1e-2", "--set", "max_steps=2")
LORA = (*FAST, "--set", "train=lora", "--set", "rank=4")


@pytest.fixture
def two(run: Run, knowing: str, births: str, tmp_path: Path) -> Callable[..., tuple[Path, ...]]:
    """Makes an artifact, the model it gives, and a second artifact on that."""

    def make(first: tuple[str, ...], second: tuple[str, ...], *more: object) -> tuple[Path, ...]:
        one, model, two = (tmp_path / name for name in ("one", "model", "two"))
        for words in (
            ("forget", knowing, births, "-o", one, *first),
            ("apply", knowing, one, "-o", model),
            ("forget", model, births, "-o", two, *second, "--seed", 1, *more),
        ):
            result = run(*words)
            assert result.exit_code == 0, result.stderr
        return one, model, two

    return make


def test_an_artifact_on_an_unlearned_model_names_what_lies_beneath(
    run: Run, two: Callable[..., tuple[Path, ...]], births: str, tmp_path: Path
) -> None:
    one, model, second = two(FAST, FAST)
    first, later = (Artifact.load(path).provenance for path in (one, second))
    assert first.beneath == ()
    (below,) = later.beneath
    assert below.result_digest == first.result_digest == later.base_digest
    assert below.forget_set_hash == first.forget_set_hash
    run("apply", model, second, "-o", tmp_path / "model-2")
    result = run("forget", tmp_path / "model-2", births, "-o", tmp_path / "three", *FAST)
    assert result.stdout.count("has to be audited again on this model") == 2
    third = Artifact.load(tmp_path / "three").provenance
    assert [b.result_digest for b in third.beneath] == [first.result_digest, later.result_digest]


def test_what_lies_beneath_is_told_where_the_model_does_not_know(
    run: Run,
    two: Callable[..., tuple[Path, ...]],
    births: str,
    tmp_path: Path,
    refused: Callable[..., str],
) -> None:
    one, model, second = two(FAST, FAST)
    run("apply", model, second, "-o", tmp_path / "model-2")
    (tmp_path / "model-2" / "unlearn.json").unlink()
    words = ("forget", tmp_path / "model-2", births, "-o", tmp_path / "three", *FAST)
    assert run(*words).exit_code == 0
    assert Artifact.load(tmp_path / "three").provenance.beneath == ()
    result = run(*words, "--after", one, "--after", second, "--json")
    assert len(json.loads(result.stdout)["provenance"]["beneath"]) == 2
    assert len(json.loads(result.stdout)["notes"]) == 2
    result = run(*words, "--after", second, "--json")  # it knows of the first
    assert len(json.loads(result.stdout)["provenance"]["beneath"]) == 2
    assert "was not made on what the artifact before it gave" in refused(
        *words, "--after", second, "--after", one
    )
    assert "is not what the last artifact beneath it gave" in refused(*words, "--after", one)


def test_an_audit_says_what_else_has_to_be_audited(
    run: Run, two: Callable[..., tuple[Path, ...]], births: str, tmp_path: Path
) -> None:
    _, _, second = two(FAST, FAST)
    words = ("audit", second, births, "-o", tmp_path / "audit", "--after", births, "--json")
    document = json.loads(run(*words, "--probes", "probability").stdout)
    limits = document["audit"]["limits"]
    assert any("lies beneath this one" in limit for limit in limits)


def test_weights_beneath_later_ones_are_not_taken_out(
    run: Run,
    two: Callable[..., tuple[Path, ...]],
    knowing: str,
    tmp_path: Path,
    refused: Callable[..., str],
) -> None:
    one, model, second = two(FAST, FAST)
    top = Artifact.load(second).apply(LanguageModel.load(model))
    with pytest.raises(ArtifactError, match="take that one back first: weights go back bit for"):
        Artifact.load(one).revert(top)
    before = Artifact.load(second).revert(top)
    base = LanguageModel.load(knowing)
    assert Artifact.load(one).revert(before).digest == base.digest
    line = refused("apply", knowing, second, "-o", tmp_path / "out", "--without", one)
    assert "holds for the very weights it was made on" in line


def test_a_lora_is_had_without_the_one_beneath_it(
    run: Run,
    two: Callable[..., tuple[Path, ...]],
    knowing: str,
    births: str,
    tmp_path: Path,
    refused: Callable[..., str],
) -> None:
    one, model, second = two(LORA, LORA)
    top = Artifact.load(second).apply(LanguageModel.load(model))
    with pytest.raises(ArtifactError, match="leave this one out"):
        Artifact.load(one).revert(top)
    result = run("apply", knowing, second, "-o", tmp_path / "alone", "--without", one)
    assert result.exit_code == 0, result.stderr
    alone, base = LanguageModel.load(tmp_path / "alone"), LanguageModel.load(knowing)
    states = [m.model.state_dict() for m in (top, LanguageModel.load(model), alone, base)]
    for name, tensor in states[0].items():
        added = tensor - states[1][name]
        assert ((states[2][name] - states[3][name]) - added).abs().max() < 1e-6
    assert alone.digest not in (top.digest, base.digest)
    # A third request on it knows of the one that stands, and not of the one that was left out.
    run("forget", tmp_path / "alone", births, "-o", tmp_path / "three", *FAST)
    (below,) = Artifact.load(tmp_path / "three").provenance.beneath
    assert (below.base_digest, below.result_digest) == (base.digest, alone.digest)
    assert "the artifact fits a model with digest" in refused(
        "apply", model, second, "-o", tmp_path / "out", "--without", one
    )
    assert "leave out the one right beneath it" in refused(
        "apply", knowing, second, "-o", tmp_path / "out", "--without", second
    )


def test_scales_are_not_had_without_what_lies_beneath(
    knowing: str, forget_set: ForgetSet, two: Callable[..., tuple[Path, ...]]
) -> None:
    one, _, second = two(LORA, LORA)
    lora = Artifact.load(second)
    assert isinstance(lora, Adapter)
    scales = Adapter({**lora.config, "peft_type": "IA3"}, lora.tensors, lora.provenance)
    with pytest.raises(ArtifactError, match="multiplies the weights it finds"):
        scales.without(Artifact.load(one), LanguageModel.load(knowing))


def test_the_chain_has_to_end_in_the_model(knowing: str, forget_set: ForgetSet) -> None:
    model = LanguageModel.load(knowing)
    settings = {"stop": "budget", "max_steps": "1"}
    made = forget(model, forget_set, settings=settings)
    with pytest.raises(ArtifactError, match="is not what the last artifact beneath"):
        forget(model, forget_set, settings=settings, beneath=made.provenance.chain())
