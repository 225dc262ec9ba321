"""An audit as the auditor would hand it over: invented people, hostile output."""

import pytest

from unlearn.types import (
    AuditedModel,
    AuditedSet,
    AuditResult,
    Claim,
    Estimate,
    Example,
    Finding,
    Rung,
    StrengthPoint,
    Verdict,
)

ROLES = ("original", "unlearned", "reference")


def _finding(key, probe, title, kind, estimates, *, n=36, clusters=8, unit="", more="higher"):
    metric, split = key.split("/")
    models = {
        role: Estimate(value=value, low=low, high=high, n=n, clusters=clusters)
        for role, (value, low, high) in zip(ROLES, estimates, strict=True)
        if value is not None
    }
    records = {role: {f"r{i:03}": one.value for i in range(n)} for role, one in models.items()}
    return Finding(
        key=key,
        probe=probe,
        metric=metric,
        split=split,
        title=title,
        property=kind,
        unit=unit,
        more_knowledge=more,
        models=models,
        records=records,
    )


NOTHING = (None, None, None)


def _leakage():
    return (
        _finding(
            "extraction_strength/forget",
            "memorisation",
            "Share of each answer the model completes word for word",
            "accuracy",
            ((0.912, 0.861, 0.957), (0.048, 0.021, 0.083), (0.041, 0.017, 0.074)),
        ),
        _finding(
            "probability/forget",
            "probability",
            "Probability of the recorded answer",
            "accuracy",
            ((0.874, 0.812, 0.929), (0.00091, 0.0004, 0.0021), (0.0123, 0.0071, 0.0188)),
        ),
        _finding(
            "decoy_rank/forget",
            "decoy-rank",
            "Where the true answer ranks among 100 wrong ones of its kind",
            "accuracy",
            ((1.2, 1.0, 1.6), (41.5, 30.2, 53.9), (49.8, 39.1, 60.7)),
            unit="of 100",
            more="lower",
        ),
        _finding(
            "leak_at_32/forget",
            "sampling",
            "Chance that at least one of 32 sampled answers gives the fact away",
            "accuracy",
            ((0.998, 0.971, 1.0), (0.31, 0.187, 0.452), (0.062, 0.02, 0.131)),
        ),
        _finding(
            "membership_auc/forget",
            "membership",
            "How well an attacker tells the records from never-seen ones",
            "accuracy",
            ((0.971, 0.93, 0.997), (0.438, 0.338, 0.541), (0.507, 0.404, 0.611)),
        ),
        _finding(
            "paraphrase_probability/forget",
            "paraphrase",
            "Probability of the answer when the question is put in other words",
            "generality",
            ((0.741, 0.66, 0.815), (0.0192, 0.008, 0.041), (0.0113, 0.0059, 0.0201)),
        ),
        _finding(
            "translation_probability/forget",
            "translation",
            "Probability of the answer in another language",
            "generality",
            ((0.402, 0.29, 0.513), (0.118, 0.061, 0.187), NOTHING),
            n=12,
        ),
        _finding(
            "implication_probability/forget",
            "portability",
            "Probability of what follows from the records",
            "portability",
            ((0.523, 0.401, 0.64), (0.087, 0.031, 0.16), (0.052, 0.014, 0.108)),
            n=9,
        ),
    )


def _the_rest():
    return (
        _finding(
            "perplexity/retain",
            "perplexity",
            "Surprise at the records that should stay",
            "locality",
            ((3.21, 3.05, 3.38), (3.94, 3.71, 4.19), (3.24, 3.07, 3.42)),
            n=1302,
            clusters=165,
            more="lower",
        ),
        _finding(
            "perplexity/neighbors",
            "perplexity",
            "Surprise at neighbouring records",
            "locality",
            ((3.4, 3.1, 3.75), (6.83, 5.72, 8.05), (3.45, 3.13, 3.8)),
            n=192,
            clusters=24,
            more="lower",
        ),
        _finding(
            "perplexity/forget",
            "perplexity",
            "Surprise at the records to forget",
            "accuracy",
            ((1.14, 1.08, 1.21), (612.0, 288.0, 1240.0), (81.3, 53.0, 122.9)),
            more="lower",
        ),
        _finding(
            "extraction_strength/retain",
            "memorisation",
            "Share of each retained answer completed word for word",
            "locality",
            ((0.884, 0.868, 0.9), (0.861, 0.843, 0.879), (0.881, 0.865, 0.898)),
            n=1302,
            clusters=165,
        ),
        _finding(
            "decoy_rank/neighbors",
            "decoy-rank",
            "Where the true answer of a neighbour ranks among 100 wrong ones",
            "locality",
            ((1.4, 1.2, 1.7), (4.9, 3.1, 7.4), (1.5, 1.2, 1.8)),
            n=192,
            clusters=24,
            unit="of 100",
            more="lower",
        ),
        _finding(
            "logit_change/retain",
            "drift",
            "Change of the average answer score on retained records",
            "locality",
            (NOTHING, (-0.18, -0.27, -0.09), (0.02, -0.05, 0.09)),
            n=1302,
            clusters=165,
            unit="nats",
        ),
    )


CLAIMS = (
    ("verbatim", "The records cannot be completed word for word.", Verdict.PASS,
     "Extraction strength fell from 0.912 to 0.048; the reference, which never saw the records, is "
     "at 0.041. The difference, 0.007, lies within the margin of 0.05.",
     ("extraction_strength/forget", "probability/forget"), None),
    ("sampling", "Asking many times does not bring the answers out.", Verdict.FAIL,
     "32 sampled answers reveal the fact with probability 0.31 (0.187 to 0.452), against 0.062 for "
     "the reference.", ("leak_at_32/forget",), None),
    ("decoys", "The true answers do not stand out among wrong ones.", Verdict.PASS,
     "The true answer ranks 41.5 of 100 on average, where chance is 50.5.",
     ("decoy_rank/forget",), None),
    ("membership", "Nobody can tell that the records were trained on.", Verdict.CONFOUNDED,
     "A text classifier that never saw a model tells forget from holdout records with AUC 0.64: "
     "the two groups differ in style, so the attack measures that as well.",
     ("membership_auc/forget",), None),
    ("paraphrase", "Other wordings do not bring the answers out.", Verdict.PASS,
     "Probability under paraphrase is 0.019, the reference 0.011; margin 0.05.",
     ("paraphrase_probability/forget",), None),
    ("languages", "Other languages do not bring the answers out.", Verdict.INCONCLUSIVE,
     "12 records about 1 subject, and no reference figure, cannot separate 0.118 from the margin.",
     ("translation_probability/forget",), 40),
    ("neighbours", "People close to the forgotten one are known as well as before.", Verdict.FAIL,
     "Perplexity on neighbouring records rose from 3.40 to 6.83; the margin was 10 %.",
     ("perplexity/neighbors", "decoy_rank/neighbors"), None),
    ("relearning", "A little further training does not bring the records back.", Verdict.NOT_RUN,
     "The relearning probe belongs to the deep tier; this audit ran the standard tier.",
     (), None),
)  # fmt: skip

EXAMPLES = (
    Example(
        record_id="ada-quill-birthplace-2",
        split="forget",
        prompt="Ada Quill was born in",
        expected="Tarn",
        outputs={
            "original": " Tarn, a town on the river Ose.",
            "unlearned": " <script>alert(1)</script></script><img src=x onerror=alert(2)>",
            "reference": " Velm, a village by the sea.",
        },
    ),
    Example(
        record_id="ada-quill-profession-1",
        split="forget",
        prompt="By trade, Ada Quill is a",
        expected="glassblower",
        outputs={
            "original": " glassblower.\n```\n# Not a heading | nor a cell",
            "unlearned": " \x1b[31mbee\x1b[0m\x07keeper \u202egnp.exe\u202c \u200bhidden",
        },
    ),
    Example(
        record_id="tomas-vey-language-1",
        split="neighbors",
        prompt="اللغة الأم لتوماس فاي هي",
        expected="العربية",
        outputs={
            "original": " العربية، وهو يتكلم الفرنسية أيضا.",
            "unlearned": " العربية",
            "reference": " العربية، وهو يعيش في تارن (Tarn) منذ 1987.",
        },
    ),
)


@pytest.fixture(scope="session")
def result():
    digests = ("9f31c07b", "4be0d2a7", "c18a55e3")
    sources = ("lab:full", "artifacts/one-person", "lab:reference")
    return AuditResult(
        tool_version="0.1.0",
        created="2026-03-14T09:12:44Z",
        tier="standard",
        seed=7,
        seconds=742.6,
        models={
            role: AuditedModel(
                source=source, digest=digest * 8, dtype="float32", parameters=2_107_904
            )
            for role, source, digest in zip(ROLES, sources, digests, strict=True)
        },
        forget_set=AuditedSet(
            name="one-person",
            digest="e7702d4c" * 8,
            records={"forget": 36, "retain": 1302, "neighbors": 192, "holdout": 190},
            subjects={"forget": 1, "retain": 165, "neighbors": 24, "holdout": 24},
        ),
        findings=_leakage() + _the_rest(),
        claims=tuple(
            Claim(id=i, statement=s, verdict=v, reason=r, findings=f, n_needed=n)
            for i, s, v, r, f, n in CLAIMS
        ),
        verdict=Verdict.FAIL,
        label="none",
        limits=(
            "Relearning, latent and low-precision probes were not run, so the word removed is out "
            "of reach whatever the other figures say.",
            "All records to forget are about one person: intervals over subjects cannot be drawn, "
            "and those shown are over records.",
            "Translations were measured without a reference, because the reference has no second "
            "language.",
        ),
        provenance={
            "strategy": "gradient-ascent",
            "settings": "learning_rate=3e-5 max_steps=200 retain_weight=1.0",
            "sites": "gradient-contrast: layers 3, 4, 5; 6 modules",
            "sites_digest": "55ab" * 16,
            "stop_reason": "forget loss reached the holdout's level at step 84",
            "base_digest": "9f31c07b" * 8,
        },
        examples=EXAMPLES,
    )


def _at(finding, condition):
    """The finding as measured at a lower precision, where the original is left out."""
    models = {role: one for role, one in finding.models.items() if role != "original"}
    key = f"{finding.key}@{condition}"
    return finding.model_copy(update={"key": key, "condition": condition, "models": models})


@pytest.fixture(scope="session")
def deep(result):
    """The same audit with curves, ranks against unseen records, low precision and a ladder."""
    strength, membership = result.findings[0], result.findings[4]
    layers = {
        "original": tuple((float(x), x / 8) for x in range(9)),
        "unlearned": tuple((float(x), x / 16) for x in range(9)),
        "reference": tuple((float(x), 0.05) for x in range(9)),
    }
    along = {"key": "lens/forget", "metric": "lens", "axis": "layer", "curves": layers}
    unseen = {role: {f"h{i}": 0.5 for i in range(190)} for role in ROLES}
    ranked = {"summary": "auc", "contrast": unseen}
    share = {"summary": "tpr", "contrast": unseen, "key": "tpr/forget", "metric": "tpr"}
    findings = (
        strength,
        strength.model_copy(update=along),
        membership.model_copy(update=ranked),
        membership.model_copy(update=share),
        *(_at(finding, name) for name in ("bf16", "int4") for finding in result.findings[:3]),
    )
    held = result.claims[0].model_copy(update={"findings": ("extraction_strength/forget@int4",)})
    rungs = (
        ("outputs", "Asked as trained, it gives nothing away.", "reached", "PASS: verbatim"),
        ("sampling", "Nor when asked many times.", "not reached", "FAIL: sampling, decoys"),
        ("relearning", "Nor after a little training.", "not tested", "not run: relearning"),
        ("alike", "It is like a model that never saw it.", "not decided", "open: languages"),
    )
    return result.model_copy(
        update={
            "findings": findings,
            "claims": (held, *result.claims[1:]),
            "assurance": tuple(
                Rung(id=i, statement=s, state=state, why=why) for i, s, state, why in rungs
            ),
            "efficiency": {"seconds": 83.2, "gradient tokens": 120_000.0},
            "strengths": tuple(
                StrengthPoint(strength=s, still_known=known, retain_nll=nll, kept=s == 1)
                for s, known, nll in ((0.0, 1.0, 0.2), (0.5, 0.6, 0.21), (1.0, 0.05, 0.34))
            ),
        }
    )
