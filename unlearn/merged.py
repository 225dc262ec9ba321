"""A model that forgot as an ordinary model folder, with a note of where it came from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from unlearn import __version__

if TYPE_CHECKING:
    from unlearn.artifact import Artifact
    from unlearn.model.language_model import LanguageModel

NOTE = "unlearn.json"
CARD = "README.md"


def write_merged(
    artifact: Artifact, base: LanguageModel, folder: Path, card: str | None = None
) -> LanguageModel:
    """Writes what an artifact makes of its base into an empty folder that opens with transformers.

    Args:
        artifact: what forgetting produced.
        base: the model it was made from.
        folder: where to.
        card: text of a model card to put beside the weights.

    Returns:
        The unlearned model.

    Raises:
        ArtifactError: the artifact was not made from this base.
    """
    merged = artifact.apply(base)
    merged.save(folder)
    note = {
        "unlearn": __version__,
        "base_source": base.source,
        "base_digest": base.digest,
        "digest": merged.digest,
        "provenance": artifact.provenance.model_dump(mode="json"),
    }
    if card is not None:
        (folder / CARD).write_text(card, encoding="utf-8", newline="\n")
        note["card"] = CARD
    text = json.dumps(note, ensure_ascii=False, indent=1) + "\n"
    (folder / NOTE).write_text(text, encoding="utf-8")
    return merged
