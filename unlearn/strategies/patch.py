"""Patch: a few neurons beside those of one MLP that open on the forgotten facts and say ignorance.

T-Patcher (Huang et al. 2023, arXiv:2301.09785) turned from mending an answer to making it unlikely.
Nothing of the model moves, so this suppresses and does not remove: see ``PatchNeurons``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from unlearn.artifact import Provenance, SitesSummary
from unlearn.errors import InputError, UnsupportedError
from unlearn.forget_set import ForgetSet
from unlearn.model.batches import encode
from unlearn.model.language_model import LanguageModel
from unlearn.model.prefixes import PrefixConfig, sample_prefixes
from unlearn.model.scoring import score
from unlearn.model.widening import Neurons, find_mlp, widened
from unlearn.patch_neurons import PatchNeurons
from unlearn.registry import strategies
from unlearn.strategies.counterfactual import guesses
from unlearn.strategies.ignorance import Ignorance, LowProbability, Refusal, refusing
from unlearn.strategies.near_names import near_statements
from unlearn.strategies.patch_training import Material, PatchSettings, Trained, train_neurons
from unlearn.strategies.sites import check_sites, find_scope
from unlearn.strategies.spots import Row, find_row
from unlearn.strategies.stopping import Ceiling, Evaluation, Evaluator, Targets, find_targets
from unlearn.strategies.strength import Strength, Sweep, search, survey
from unlearn.strategies.training import OrNone
from unlearn.strategies.versions import versions
from unlearn.types import Noun, Record, Sites


class PatchConfig(Noun):
    """Settings of patching.

    >>> PatchConfig().neurons
    'token'
    """

    neurons: Literal["token", "fact"] = "token"
    """One for each token of each answer, or one for a whole answer; its wordings share them."""
    target: Literal["low-probability", "refusal"] = "low-probability"
    """What is to be said: what an unseen name would get, or a ``refusal``."""
    refusal: str = Field(default="I do not know.", min_length=1)
    """What ``target=refusal`` says."""
    layer: Annotated[int | None, OrNone] = Field(default=None, ge=0)
    """The block whose MLP gets the neurons; ``none`` for the last that the sites allow."""
    steps: int = Field(default=200, ge=1)
    """Gradient steps, at most."""
    learning_rate: float = Field(default=0.03, gt=0)
    """Of Adam, on the neurons alone."""
    activation_weight: float = Field(default=1.0, ge=0)
    """Of the loss that opens neurons on their own tokens."""
    memory_weight: float = Field(default=5.0, ge=0)
    """Of the losses that shut them elsewhere, beside the former."""
    beta: float = -3.0
    """What goes into the activation function elsewhere is to be below this."""
    gamma: float = 3.0
    """And this far below what goes in on the neuron's own tokens."""
    top: int = Field(default=1000, ge=1)
    """The largest activations elsewhere that count, of all tokens and neurons."""
    memories: int = Field(default=1024, ge=1)
    """Retain records and near names, together, on whose tokens neurons are to be shut."""
    retain_weight: float = Field(default=10.0, ge=0)
    """Of the KL from the original on answers of those."""
    retain_batch: int = Field(default=32, ge=1)
    """How many of them are read in a step."""
    guess_names: int = Field(default=6, ge=0)
    """Unseen names whose guesses are the targets of single tokens."""
    prefixes: int = Field(default=8, ge=0)
    """Contexts that the model writes itself, one before each record when it is read again."""
    enough: float = Field(default=0.05, gt=0)
    """Nats, mean over records, at which training ends, if no neuron is open elsewhere."""
    strength: Strength = "search"
    """Times what neurons say: ``search`` for the smallest that forgets within the retain ceiling,
    or a number."""
    retain_ceiling: float = Field(default=0.5, ge=0)
    """How far the retain NLL may rise, as a share of the original's."""
    retain_floor: float = Field(default=0.2, ge=0)
    """The original's retain NLL counts as at least this many nats per token for the ceiling."""
    retain_sample: int = Field(default=64, ge=1)
    """Retain records that the ceiling is measured on."""


@strategies.register("patch")
class Patch:
    """Forgets by neurons that speak against what the model knows, and can be taken out again.

    >>> artifact = Patch(PatchConfig(neurons="fact")).forget(model, forget_set)  # doctest: +SKIP
    """

    name: ClassVar[str] = "patch"
    summary: ClassVar[str] = "add a few removable neurons that drown the answers (T-Patcher)"
    in_place: ClassVar[bool] = False
    honours: ClassVar[frozenset[str]] = frozenset({"layers", "modules"})
    Config = PatchConfig

    def __init__(self, config: PatchConfig | None = None) -> None:
        self.config = config or PatchConfig()

    def forget(
        self,
        model: LanguageModel,
        forget_set: ForgetSet,
        sites: Sites | None = None,
        *,
        seed: int = 0,
        progress: Callable[[str, float], None] | None = None,
    ) -> PatchNeurons:
        """The neurons with which ``model`` does not answer the forget records.

        ``model`` itself stays as it is.

        Raises:
            UnsupportedError: there is nothing to hold the neurons shut on, the sites allow no MLP,
                or the model's MLPs cannot be widened (experts, fused or packed matrices).
            InputError: the sites are for another model or forget set.
        """
        started, config = time.monotonic(), self.config
        check_sites(self.name, self.honours, model, forget_set, sites)
        if not forget_set.retain:
            raise UnsupportedError(
                f"neurons have to be shut on something, and forget set {forget_set.name!r} has no "
                "retain split; add retain.jsonl, or choose another strategy"
            )
        layer = _layer(model, sites, config.layer)
        widened(model, 1, layer)
        guessed = guesses(model, forget_set, config.guess_names, seed)
        targets = find_targets(model, forget_set, 0.9, 3, guessed)
        report = progress or (lambda what, share: None)
        trained = train_neurons(
            model,
            self._material(model, forget_set, targets, layer, seed),
            PatchSettings(**{name: getattr(config, name) for name in PatchSettings.model_fields}),
            seed,
            lambda share: report("neurons", share),
        )
        sweep = self._strengthen(model, forget_set, targets, layer, trained, seed)
        report("patch", 1.0)
        provenance = Provenance(
            strategy=self.name,
            settings=config.model_dump(mode="json"),
            seed=seed,
            sites=SitesSummary.of(sites),
            versions=versions(),
            steps=({"step": 0, "targets": targets.origin}, _summary(trained, sweep)),
            strength=sweep.chosen,
            sweep=sweep.log(),
            stop_reason=_reason(layer, trained, sweep, targets.warning),
            seconds=time.monotonic() - started,
        )
        neurons = _scaled(trained.neurons, sweep.chosen)
        return PatchNeurons.on(
            model, layer, neurons, provenance, forget_set_digest=forget_set.digest
        )

    def _material(
        self,
        model: LanguageModel,
        forget_set: ForgetSet,
        targets: Targets,
        layer: int,
        seed: int,
    ) -> Material:
        config, records = self.config, forget_set.forget
        if config.target == "refusal":
            records = tuple(refusing(record, config.refusal) for record in records)
        half = config.prefixes // 2
        lengths = PrefixConfig(n_short=half, n_long=config.prefixes - half)
        prefixes = sample_prefixes(model, seed=seed, config=lengths) if config.prefixes else ()
        rows = [find_row(model, i, record, "answer") for i, record in enumerate(records)]
        for i, record in enumerate(records) if prefixes else ():
            row = find_row(model, i, record, "answer", prefixes[i % len(prefixes)])
            if len(row.positions) == len(rows[i].positions):
                rows.append(row)
        owners, n_neurons = _owners(records, rows, config.neurons == "token")
        ignorance: Ignorance = Refusal()
        if config.target == "low-probability":
            before = [found.logprobs for found in score(model, records)]
            ignorance = LowProbability(targets.records, before)
        near = near_statements(model, forget_set, seed)
        retain = forget_set.sample("retain", max(1, config.memories // 2), seed)
        every = max(1, len(near) // max(1, config.memories - len(retain)))
        held = encode(model, [*retain, *near[::every]])
        memories = [encoding.ids for encoding in held]
        return Material(layer, rows, owners, n_neurons, ignorance, held, memories)

    def _strengthen(
        self,
        model: LanguageModel,
        forget_set: ForgetSet,
        targets: Targets,
        layer: int,
        trained: Trained,
        seed: int,
    ) -> Sweep:
        config, n = self.config, trained.neurons.writing.shape[1]
        sample = forget_set.sample("retain", config.retain_sample, seed)
        evaluator = Evaluator(forget_set.forget, sample, targets.records)

        def evaluate(strength: float) -> Evaluation:
            neurons = _scaled(trained.neurons, strength)
            return evaluator(widened(model, n, layer, neurons), trained.steps)

        ceiling = Ceiling(config.retain_ceiling, config.retain_floor, 1)
        limit = ceiling.limit(evaluator(model, 0).retain_nll)
        if config.strength == "search":
            return search(evaluate, limit)
        return survey(evaluate, limit, config.strength)


def _summary(trained: Trained, sweep: Sweep) -> dict[str, Any]:
    """For the log of the artifact."""
    return {
        "step": trained.steps,
        "forget_loss": trained.loss,
        "fires": trained.fires,
        "misfires": trained.misfires,
        **sweep.evaluations[sweep.chosen].summary(),
    }


def _layer(model: LanguageModel, sites: Sites | None, wanted: int | None) -> int:
    """The layer that gets the neurons: one whose down-projection the sites let change."""
    scope = find_scope(model, sites).trainable
    names = {
        layer: f"{name}.weight"
        for layer, name in enumerate(model.anatomy.down_projection)
        if name is not None
    }
    allowed = [layer for layer, name in names.items() if name in scope]
    if wanted is not None and wanted not in allowed and sites is not None:
        raise InputError(f"layer={wanted} lies outside the sites, which allow {allowed}")
    if not allowed and names:
        raise UnsupportedError(
            "the sites leave no down-projection free, and neurons have to write through one; name "
            f"layers, or modules that hold one such as {names[0]}"
        )
    layer = wanted if wanted is not None else (allowed or [model.anatomy.n_layers - 1])[-1]
    find_mlp(model, layer)
    return layer


def _owners(
    records: Sequence[Record], rows: Sequence[Row], by_token: bool
) -> tuple[list[tuple[int, ...]], int]:
    """For each record the neuron of each of its spots, and how many neurons there are."""
    numbers: dict[tuple[object, ...], int] = {}
    owners = []
    for record, row in zip(records, rows, strict=False):
        fact = (record.subject, record.relation, record.answer)
        places = range(len(row.positions))
        found = [(*fact, place if by_token else None) for place in places]
        owners.append(tuple(numbers.setdefault(name, len(numbers)) for name in found))
    return owners, len(numbers)


def _scaled(neurons: Neurons, strength: float) -> Neurons:
    return neurons._replace(writing=strength * neurons.writing)


def _reason(layer: int, trained: Trained, sweep: Sweep, warning: str) -> str:
    matched = sweep.evaluations[sweep.chosen].matched
    made = (
        f"{trained.neurons.writing.shape[1]} neurons in layer {layer}, open on "
        f"{trained.misfires:.2%} of the tokens that are to stay: {int(matched.sum())} of "
        f"{len(matched)} forget records look like ones that were never trained on"
    )
    return "; ".join(filter(None, (made, str(sweep), warning)))
