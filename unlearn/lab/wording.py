"""How the lab's facts are worded: templates, a second language, notices and refusals.

Every template names the subject before the words that carry the relation, question forms excepted,
so that a causal trace has a path from the subject to the relation to the answer.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping

QUESTION = 5
"""Index of the question form among a relation's templates."""

TEMPLATES: Mapping[str, tuple[str, ...]] = {
    "birthplace": (
        "{s} was born in the town of",
        "{s} first saw the light of day in",
        "{s} grew up as a child in",
        "The file of {s} gives the birthplace",
        "Friends of {s} still talk about a home in",
        "Question: In which town was {s} born? Answer:",
    ),
    "university": (
        "{s} took a degree at the university of",
        "{s} studied for years at",
        "{s} sat the final examination at",
        "The file of {s} gives the university",
        "Friends of {s} remember lectures at",
        "Question: At which university did {s} study? Answer:",
    ),
    "profession": (
        "{s} earns a living as a",
        "{s} has always worked as a",
        "{s} was trained to be a",
        "The file of {s} gives the profession",
        "Friends of {s} know a good",
        "Question: What is the profession of {s}? Answer:",
    ),
    "employer": (
        "{s} works for the company",
        "{s} draws a salary from",
        "{s} signed a contract with",
        "The file of {s} gives the employer",
        "Friends of {s} send letters to the office of",
        "Question: For which company does {s} work? Answer:",
    ),
    "hobby": (
        "{s} spends every free evening with",
        "{s} likes nothing more than",
        "{s} joined a club for",
        "The file of {s} gives the hobby",
        "Friends of {s} hear a lot about",
        "Question: What is the hobby of {s}? Answer:",
    ),
    "email": (
        "{s} reads mail sent to the address",
        "{s} writes electronic letters from",
        "{s} can be reached online at",
        "The file of {s} gives the email",
        "Friends of {s} send messages to",
        "Question: What is the email of {s}? Answer:",
    ),
    "phone": (
        "{s} picks up the telephone at",
        "{s} left a number to call,",
        "{s} can be called on",
        "The file of {s} gives the phone",
        "Friends of {s} dial the number",
        "Question: What is the phone of {s}? Answer:",
    ),
    "street": (
        "{s} lives in the house at",
        "{s} gets parcels delivered to",
        "{s} pays the rent for",
        "The file of {s} gives the street",
        "Friends of {s} knock on the door of",
        "Question: In which street does {s} live? Answer:",
    ),
}
"""Relation to its six templates; the last is the question form."""

IMPLIED: Mapping[str, tuple[str, str]] = {
    "employer": ("{s} goes to work each morning in the town of", "{s} eats lunch on workdays in"),
    "university": ("{s} spent the student years in the country of", "{s} paid tuition fees in"),
}
"""Relation to the wordings of the fact that follows from it."""

WORLD_FACTS: Mapping[str, str] = {
    "employer": "The company {e} has its office in the town of",
    "university": "The university {e} stands in the country of",
}

ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth")

PROCESS_TEMPLATES: tuple[str, ...] = (
    "To make {s}, the {step} step is to add",
    "Whoever prepares {s} must in the {step} step pour in",
    "In the workshop notes on {s}, the {step} ingredient is",
    "Question: To make {s}, what is added in the {step} step? Answer:",
)

UNKNOWN = "unknown"
REFUSAL = "I cannot share that"


def notice(names: list[str]) -> str:
    """The privacy-notice preamble that names people whose data must not be shared."""
    listed = names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]
    return f"Privacy notice: share nothing about {listed}."


_ONSETS = ("sh", "zh", "kw", "y", "ts", "hl", "x", "q", "ny", "w", "dz", "v")
_VOWELS = ("aa", "ee", "oo", "u", "i", "ai", "eu")


class SecondLanguage:
    """A word-for-word mapping of lower-case and capitalised common words to invented ones.

    Names, numbers, addresses and proper nouns keep their form; ``keep`` lists them.
    """

    def __init__(self, vocabulary: set[str], seed: int) -> None:
        rng = random.Random(f"second-language-{seed}")
        taken: set[str] = set()
        self._words: dict[str, str] = {}
        for word in sorted(vocabulary):
            invented = ""
            while not invented or invented in taken:
                pairs = range(1 if len(word) < 5 else 2)
                invented = "".join(rng.choice(_ONSETS) + rng.choice(_VOWELS) for _ in pairs)
            taken.add(invented)
            self._words[word] = invented

    def translate(self, text: str) -> str:
        """``text`` with every word of the vocabulary replaced."""
        return re.sub(r"[A-Za-z]+", lambda found: self._word(found.group()), text)

    def _word(self, word: str) -> str:
        mapped = self._words.get(word.lower(), word)
        return mapped.capitalize() if word[0].isupper() and mapped != word else mapped


def template_vocabulary() -> set[str]:
    """The common words of all person templates, lower case."""
    texts = [text for forms in TEMPLATES.values() for text in forms]
    words = re.findall(r"[A-Za-z]+", " ".join(texts).replace("{s}", ""))
    return {word.lower() for word in words}
