"""Tasks of lm-evaluation-harness: read, drawn from, and put to models that are in memory."""

from __future__ import annotations

import copy
import hashlib
import json
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from pydantic import Field

from unlearn.errors import InputError, UnknownNameError, UnsupportedError
from unlearn.model.language_model import LanguageModel
from unlearn.model.quiet import quiet_import
from unlearn.types import Record

SHARES = ("acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match")
"""Metrics of the harness that are 0 or 1 for a document (up to 1 where a task scores in parts)."""

BATCH = 8
"""Documents in one forward pass."""

HUB_CODE = "evaluate"
"""The library that the harness fetches code from the hub with, for metrics it does not have."""


class Document(Record):
    """One document of a task, as a record that is a subject of its own.

    ``prompt`` is all that the harness asks about it, ``answer`` is its target.
    """

    index: int
    """Its place in the task's documents."""
    task: Any = Field(repr=False)
    """The ``BenchmarkTask`` it is of."""

    @property
    def text(self) -> str:
        """What it is asked, its target and how it is scored: all that its figures hang on."""
        return f"{super().text} {self.task.settings}"


class Figure(NamedTuple):
    """A metric of one task, document by document."""

    metric: str
    title: str
    share: bool
    """Whether it lies in 0 to 1 by its kind."""
    higher_is_better: bool
    values: Mapping[str, float]
    """Record id to value."""


@dataclass(frozen=True)
class BenchmarkTask:
    """One task, read from a file or known to the harness by name.

    >>> (task,) = read_tasks(["towns.yaml"])                          # doctest: +SKIP
    >>> task.score(model, task.documents(100, seed=0), seed=0)        # doctest: +SKIP
    """

    name: str
    task: Any
    """The harness's own ``Task``."""

    @cached_property
    def settings(self) -> str:
        """A digest of how the task asks and scores, and of the harness's version."""
        told = json.dumps(self.task.dump_config(), sort_keys=True, default=str)
        return hashlib.sha256(f"{_harness().__version__} {told}".encode()).hexdigest()

    @cached_property
    def means(self) -> tuple[str, ...]:
        """Its metrics that are a mean of one value for each document, in its own order."""
        from lm_eval.api.metrics import mean

        return tuple(name for name, how in self.task.aggregation().items() if how is mean)

    @property
    def judged(self) -> str:
        """The first of them that is a share, by the name of its figure; empty if none is.

        Fixed by the task before anything is measured. Of several filters it is the first too.
        """
        better = self.task.higher_is_better()
        known = (name for name in self.means if name in SHARES and better.get(name, True))
        first = next(known, "")
        filters = self.task.config.filter_list or [{"name": "none"}]
        return first and self._named(first, filters[0]["name"])

    def documents(self, cap: int, seed: int) -> tuple[Document, ...]:
        """At most ``cap`` documents, drawn at random, in the task's order.

        Raises:
            InputError: the task's documents and its templates do not fit together.
        """
        with _working(self.name, seed):
            drawn = np.random.default_rng(seed).permutation(len(self.task.eval_docs))[:cap]
            indices = sorted(drawn.tolist())
            self.task.set_fewshot_seed(seed)
            self.task.build_all_requests(samples=indices)
            asked: dict[int, list[Any]] = {}
            for instance in self.task.instances:
                asked.setdefault(instance.doc_id, []).append(instance)
            return tuple(self._document(index, asked[place]) for place, index in enumerate(indices))

    def _document(self, index: int, instances: Sequence[Any]) -> Document:
        key = f"{self.name}-{index}"
        return Document(
            id=key,
            subject=key,
            relation=self.name,
            prompt=json.dumps([instance.args for instance in instances], default=str),
            answer=repr(self.task.doc_to_target(instances[0].doc)),
            index=index,
            task=self,
        )

    def score(
        self, lm: LanguageModel, documents: Sequence[Document], seed: int
    ) -> tuple[Figure, ...]:
        """The harness's figures of a model; those that are no mean over documents are left out.

        Raises:
            InputError: the harness cannot put the task to this model.
        """
        with _working(self.name, seed):
            from lm_eval.evaluator import evaluate
            from lm_eval.models.huggingface import HFLM

            # It gives the tokenizer a token to pad with where that has none.
            tokenizer = copy.deepcopy(lm.tokenizer)
            self.task.set_fewshot_seed(seed)
            results = evaluate(
                HFLM(pretrained=lm.model, tokenizer=tokenizer, batch_size=BATCH),
                {"tasks": {self.name: self.task}},
                samples={self.name: [document.index for document in documents]},
                bootstrap_iters=0,
            )
        return tuple(self._figures(results["samples"][self.name], documents))

    def _figures(
        self, samples: Iterable[Mapping[str, Any]], documents: Sequence[Document]
    ) -> Iterator[Figure]:
        ids = {document.index: document.id for document in documents}
        found: dict[tuple[str, str], dict[str, float]] = {}
        for sample in samples:
            for name in self.means:
                if isinstance(sample.get(name), (int, float, np.number, np.bool_)):
                    value = float(sample[name])
                    if name in SHARES and not 0 <= value <= 1:
                        raise InputError(f"{self._named(name, 'none')} is {value}; it is no share")
                    values = found.setdefault((name, sample["filter"]), {})
                    values[ids[sample["doc_id"]]] = value
        better = self.task.higher_is_better()
        total = len(self.task.eval_docs)
        part = f" ({len(ids)} of {total} documents, drawn)" if len(ids) < total else ""
        for (name, filtered), values in found.items():
            if len(values) == len(ids):
                metric = self._named(name, filtered)
                title = f"{metric} on a benchmark task{part}"
                yield Figure(metric, title, name in SHARES, better.get(name, True), values)

    def _named(self, metric: str, filtered: str) -> str:
        return f"{self.name}.{metric}" + ("" if filtered == "none" else f".{filtered}")


def read_tasks(names: Sequence[str]) -> tuple[BenchmarkTask, ...]:
    """The tasks that names known to the harness, or paths of its YAML files, stand for.

    A group or a tag gives all of its tasks. The data of a task are read as its file says; a task
    that is known by name mostly names a data set of the hub. A file may name Python functions, and
    they are run: give only files you trust.

    Raises:
        UnsupportedError: the harness is not installed, or a task needs what is not done here.
        UnknownNameError: a task that the harness does not know.
        InputError: a file that is not there or is no task, data that cannot be read, a task that
            gives no figure document by document, or two of one name.
    """
    wanted = list(dict.fromkeys(names))
    if not wanted:
        return ()
    _harness()
    paths = {name: Path(name) for name in wanted if name.endswith((".yaml", ".yml"))}
    for path in paths.values():
        if not path.is_file():
            raise InputError(f"there is no task file {path}")
    load = _loader(paths, [name for name in wanted if name not in paths])
    found: dict[str, BenchmarkTask] = {}
    for name in wanted:
        with _working(name, 0):
            loaded = load(name)
        for own, task in loaded.items():
            if own in found:
                raise InputError(f"two tasks are called {own!r}; give one of them another name")
            found[own] = _checked(BenchmarkTask(own, task))
    return tuple(found.values())


def _harness() -> ModuleType:
    try:
        with quiet_import():
            import lm_eval
    except ImportError:
        raise UnsupportedError(
            "benchmark tasks need lm-evaluation-harness; pip install 'unlearn-toolkit[lm-eval]'"
        ) from None
    return cast(ModuleType, lm_eval)


def _loader(
    paths: Mapping[str, Path], known_by_name: Sequence[str]
) -> Callable[[str], dict[str, Any]]:
    """What loads a task, after a look at whether the harness knows those that are no files."""
    with _working("the tasks", 0):
        from lm_eval.tasks import TaskManager

        # The harness's own thousands of files take seconds to index: only where one is named.
        manager = TaskManager(
            include_path=[path.resolve().parent for path in paths.values()],
            include_defaults=bool(known_by_name),
        )
    for name in known_by_name:
        if name not in manager.all_tasks:
            close = get_close_matches(name, manager.all_tasks, n=1)
            hint = f"did you mean {close[0]!r}?" if close else "or is it a file (.yaml)?"
            raise UnknownNameError(f"lm-evaluation-harness knows no task {name!r}; {hint}")
    # It takes the path of a task, but a group only by its name.
    files = {entry.yaml_path: name for name, entry in manager.task_index.items()}
    specs = {name: files.get(path.resolve(), str(path)) for name, path in paths.items()}
    return lambda name: dict(manager.load([specs.get(name, name)])["tasks"])


def _checked(task: BenchmarkTask) -> BenchmarkTask:
    for flag, what in (
        ("UNSAFE_CODE", "runs code that the model writes"),
        ("MULTIMODAL", "shows the model more than text"),
    ):
        if getattr(task.task, flag, False):
            raise UnsupportedError(f"the task {task.name!r} {what}, which is not done here")
    # Custom processing gives its metrics no function either, and needs none.
    if not task.task.config.process_results:
        for metric, function in getattr(task.task, "_metric_fn_list", {}).items():
            if function is None:
                raise UnsupportedError(
                    f"the task {task.name!r} asks for {metric!r}, which is no metric of the "
                    "harness; code from the hub is not run for it"
                )
    if not task.means:
        raise InputError(
            f"the task {task.name!r} has no figure that is a mean over its documents, so models "
            "cannot be compared document by document; "
            f"metrics that are: {', '.join(SHARES)}"
        )
    return task


@contextmanager
def _working(name: str, seed: int) -> Iterator[None]:
    """The harness at work: silent, from a seed of its own, with no code fetched from the hub.

    Raises:
        InputError: whatever went wrong; the harness has no errors of its own to tell apart.
    """
    silent = StringIO()
    with (
        quiet_import(),
        redirect_stdout(silent),
        redirect_stderr(silent),
        _seeded(seed),
        _without(HUB_CODE),
    ):
        try:
            yield
        except Exception as error:
            why = " ".join(f"{type(error).__name__}: {error}".split())
            raise InputError(
                f"lm-evaluation-harness cannot work with {name}: {why[:300]}"
            ) from error


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """The global random states set, and put back: tasks may shuffle and models may sample."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            random.seed(seed)
            np.random.seed(seed)
            torch.manual_seed(seed)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


@contextmanager
def _without(library: str) -> Iterator[None]:
    """An import of ``library`` fails until the block ends."""
    missing = object()
    before: Any = sys.modules.get(library, missing)
    sys.modules[library] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if before is missing:
            del sys.modules[library]
        else:
            sys.modules[library] = before
