"""Fact lookup: the MLPs in which an attribute becomes decodable."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from unlearn.errors import UnsupportedError
from unlearn.forget_set import ForgetSet
from unlearn.locate.decodability import (
    Profile,
    differing_answers,
    profile,
    shared_answers,
)
from unlearn.locate.selection import Top, choose
from unlearn.locate.sites import Candidate, build_sites, candidates
from unlearn.locate.tracing_facts import Fact, read_fact
from unlearn.model.language_model import LanguageModel
from unlearn.model.scoring import score
from unlearn.model.streams import streams
from unlearn.registry import locators
from unlearn.types import Noun, Sites

Progress = Callable[[str, float], None] | None
Token = Literal["first-subject", "last-subject", "last"]

TOKENS: tuple[Token, ...] = ("first-subject", "last-subject", "last")


class FactLookupConfig(Noun):
    """Settings of fact lookup."""

    token: Literal["auto", "first-subject", "last-subject", "last"] = "auto"
    """Whose state is read. ``auto``: the token of the subject that shows most, or the prompt's last
    one where none of the subject shows anything."""
    folds: int = Field(default=4, ge=2)
    """Of cross-validation by subject; an answer needs as many subjects."""
    min_selectivity: float = Field(default=0.1, gt=0, lt=1)
    """How far a probe must beat random labels at its best depth to show anything."""
    min_lens: float = Field(default=1.0, gt=0)
    """The same for the lens, in nats, where no probe can be tested."""
    top: Top = 0.3
    """How much of what lies before the plateau to choose; 1 for all of it."""
    max_records: int = Field(default=2000, ge=1)
    """Of each split; whole subjects are drawn by the seed."""


@locators.register("fact-lookup")
class FactLookup:
    """Chooses the MLPs before the depth at which attributes are fully decodable.

    After the fact-lookup supports of Guo et al. 2025, which were picked by hand. A linear probe
    reads the answer from the stream at the subject's token, at every depth, cross-validated by
    subject and held against random labels (Hewitt and Liang 2019). The MLP of a block scores what
    its block adds to the best selectivity so far, in 0..1, up to the plateau at nine tenths of the
    rise; attention scores 0. Records of the forget and the retain split are read that the model
    answers rightly. Probe and logit lens of every depth are kept among the settings.

    Where no answers are shared by enough subjects to test a probe, depths are compared by the
    logit lens alone, in nats, and the output says so.

    Known failure: a small model may look a fact up only at the end of the prompt. Then nothing
    shows at the subject, the prompt's last token is read instead, and what rises there is as much
    the answer on its way out as the look-up.

    >>> FactLookup().locate(model, forget_set).settings["token_read"]      # doctest: +SKIP
    'last-subject'
    """

    name: ClassVar[str] = "fact-lookup"
    summary: ClassVar[str] = "the MLPs before attributes become linearly decodable"
    honours: ClassVar[frozenset[str]] = frozenset({"modules"})
    Config = FactLookupConfig

    def __init__(self, config: FactLookupConfig | None = None) -> None:
        self.config = config or FactLookupConfig()

    def locate(
        self,
        model: LanguageModel,
        forget_set: ForgetSet,
        *,
        seed: int = 0,
        progress: Progress = None,
    ) -> Sites:
        """The MLPs before the plateau, and the scores of all modules.

        Raises:
            UnsupportedError: the model knows no two facts of a relation, or no depth shows any.
            InputError: a record without its subject, without an answer, or too long.
        """
        profiles = self.profiles(model, forget_set, seed, progress)
        token = self._shown(profiles)
        found, among = profiles[token], candidates(model)
        scores = rises(found, among)
        able = {name: rise for name, rise in scores.items() if rise > 0}
        chosen = choose(among, able, self.config.top)
        sites = build_sites(
            self.name, model, forget_set, self.config, seed, chosen=chosen, scores=scores
        )
        seen = {
            "token_read": token,
            "compared_by": found.by,
            "pairs_read": found.n,
            "selectivity": " ".join(f"{value:.2f}" for value in found.selectivity),
            "logit_lens": " ".join(f"{value:.2f}" for value in found.lens),
        }
        return sites.model_copy(update={"settings": {**sites.settings, **seen}})

    def profiles(
        self, model: LanguageModel, forget_set: ForgetSet, seed: int, progress: Progress = None
    ) -> dict[Token, Profile]:
        """The profile of each token that may be read."""
        config = self.config
        records = [
            record
            for split in ("forget", "retain")
            for record in forget_set.sample(split, config.max_records, seed)
        ]
        known = zip(records, score(model, records), strict=True)
        facts = [read_fact(model, record) for record, tokens in known if tokens.correct]
        shared = shared_answers(facts, config.folds)
        relations = shared or differing_answers(facts)
        folds = config.folds if shared else None
        if not relations:
            raise UnsupportedError(
                f"fact-lookup compares facts that the model knows, and of {forget_set.name!r} it "
                "does not know two of one relation with different answers; add retain records, or "
                "use another locator (intervention, all)"
            )
        chosen = [fact for of in relations.values() for fact in of]
        texts = [fact.prompt_ids for fact in chosen]
        states = streams(model, texts, [self._positions(fact) for fact in chosen])
        tokens = TOKENS if config.token == "auto" else (config.token,)
        found: dict[Token, Profile] = {}
        for done, token in enumerate(tokens, start=1):
            of_token = iter(states[:, TOKENS.index(token)])
            pairs = {r: [(f, next(of_token)) for f in of] for r, of in relations.items()}
            found[token] = profile(model, pairs, folds, np.random.default_rng(seed))
            if progress is not None:
                progress("probes", done / len(tokens))
        return found

    def _positions(self, fact: Fact) -> Sequence[int]:
        """Where each of ``TOKENS`` is in the prompt; of the subject's last mention."""
        span = fact.spans[-1]
        return span.start, span.stop - 1, len(fact.prompt_ids) - 1

    def _shown(self, profiles: Mapping[Token, Profile]) -> Token:
        """The token to go by."""
        best = {token: float(found.strength.max()) for token, found in profiles.items()}
        by_probe = all(found.by == "probe" for found in profiles.values())
        name = "min_selectivity" if by_probe else "min_lens"
        enough = getattr(self.config, name)
        of_subject = [token for token in best if token != "last"]
        for tokens in (of_subject, list(best)):
            token = max(tokens, key=best.__getitem__, default=None)
            if token is not None and best[token] >= enough:
                return token
        figures = ", ".join(f"{token} {value:.2f}" for token, value in best.items())
        raise UnsupportedError(
            f"no attribute becomes decodable at any depth: at best {figures}, below {name} "
            f"{enough}; add retain records, or use another locator (intervention, all)"
        )


def rises(found: Profile, among: Sequence[Candidate]) -> dict[str, float]:
    """What the block of each MLP module adds to the best strength so far, up to the plateau."""
    best = np.maximum.accumulate(found.strength)
    rise = np.diff(best)
    rise[found.plateau :] = 0
    return {c.name: float(rise[c.layer]) if c.part == "mlp" else 0.0 for c in among}
