"""What every test shares: one thread, no hub, and a benchmark task for those that want one."""

import json
import os
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch

torch.set_num_threads(1)

TASK = """
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: gold
"""


@pytest.fixture
def questions() -> list[dict[str, object]]:
    """Twelve questions in the words of the lab's world."""
    return [
        {
            "question": f"The town of {town}",
            "choices": ["lies north", "is", "has a river"],
            "gold": gold,
        }
        for gold, town in enumerate(("Dalwick", "Thinford", "Masmere"))
    ] * 4


@pytest.fixture
def write(
    questions: list[dict[str, object]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    """Writes a task of lm-evaluation-harness, multiple choice, with more lines; gives its path."""
    pytest.importorskip("lm_eval", reason="the extra lm-eval is not installed")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))

    def write(more: str = "", name: str = "towns") -> str:
        data = tmp_path / "towns.jsonl"
        data.write_text("".join(json.dumps(question) + "\n" for question in questions))
        path = tmp_path / f"{name}.yaml"
        path.write_text(TASK.format(name=name, data=data) + more)
        return str(path)

    return write
