"""What forgetting broke on benchmark tasks, measured by lm-evaluation-harness."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from unlearn.model.language_model import LanguageModel
from unlearn.probes.harness import BenchmarkTask, Document, Figure
from unlearn.probes.probe import SHARE, UNBOUNDED, Bench, Material, Measurement, ModelProbe
from unlearn.registry import probes
from unlearn.types import Role


@probes.register("benchmark-tasks")
class BenchmarkTasks(ModelProbe):
    """The figures of lm-evaluation-harness, document by document, of tasks that were asked for.

    Which figures, their range and their direction are the task's own: ``acc`` is 1 where the right
    choice has the highest log-likelihood, ``acc_norm`` the same per character, ``exact_match``
    whether the text that was written is the target. Figures that are no mean over documents
    (perplexities, F1) are left out. A text longer than the model's context is cut on its left.
    """

    summary = "whether benchmark tasks of lm-evaluation-harness are still solved (--tasks)"
    honours = frozenset({"weights"})
    cost = "one run of each task on each model, with at most as many documents as records"
    tier = "smoke"
    property = "locality"
    needs = frozenset({"tasks"})
    bare_only = True

    def measure(self, bench: Bench) -> dict[Role, list[Measurement]]:
        """``TASK.METRIC/tasks`` for each model that was given."""
        tasks = list(_by_task(bench.material))
        distinct = bench.by_digest().values()
        found: dict[Role, list[Measurement]] = {}
        for place, (lm, roles) in enumerate(distinct):
            measurements: list[Measurement] = []
            for number, (task, documents) in enumerate(tasks):
                measurements += _measured(lm, task, documents, bench.seed)
                if bench.progress is not None:
                    done = place * len(tasks) + number + 1
                    bench.progress("", done / (len(tasks) * len(distinct)))
            found |= dict.fromkeys(roles, measurements)
        return {role: found[role] for role in bench.models}


def tasks_of(material: Material) -> tuple[BenchmarkTask, ...]:
    """The benchmark tasks that the material has documents of."""
    return tuple(task for task, _ in _by_task(material))


def _by_task(material: Material) -> Iterable[tuple[BenchmarkTask, Sequence[Document]]]:
    documents = [d for d in material.get("tasks", ()) if isinstance(d, Document)]
    for _, group in groupby(documents, key=lambda document: document.relation):
        same = list(group)
        yield same[0].task, same


def _measured(
    lm: LanguageModel, task: BenchmarkTask, documents: Sequence[Document], seed: int
) -> list[Measurement]:
    return [_measurement(figure) for figure in task.score(lm, documents, seed)]


def _measurement(figure: Figure) -> Measurement:
    return Measurement(
        metric=figure.metric,
        split="tasks",
        title=figure.title,
        values=figure.values,
        more_knowledge="higher" if figure.higher_is_better else "lower",
        bounds=SHARE if figure.share else UNBOUNDED,
    )
