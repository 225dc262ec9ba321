"""Training that unlearns, through ``transformers.Trainer``, which also writes the checkpoints."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from pickle import UnpicklingError
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainingArguments

from unlearn.errors import InputError, NumericalError
from unlearn.model.language_model import LanguageModel
from unlearn.strategies import processes
from unlearn.strategies.checkpoints import NOWHERE, Phase, Resumable
from unlearn.strategies.training import Losses, MicroBatch, Objective, Pairs, Step

TRAINED = "trained.safetensors"
OWN = "unlearn.pt"


def train(
    model: LanguageModel,
    pairs: Pairs,
    objective: Objective,
    after_step: Callable[[Step], bool],
    seed: int,
    *,
    phase: Phase | None = None,
    follower: Follower | None = None,
) -> None:
    """Trains the parameters that require a gradient, in place, until ``after_step`` says so.

    Nothing is written outside a temporary folder and the folder of ``phase``, and the global random
    state is as it was after. What was interrupted in that phase is gone on with, to the same end
    bit for bit; ``follower`` is what ``after_step`` writes to, and what a tracker hears of.

    Raises:
        NumericalError: a loss is no number.
        InputError: the checkpoint that is there cannot be read.
    """
    with TemporaryDirectory() as folder, preserved_randomness():
        arguments = _arguments(model, pairs, seed, folder)
        trainer = Unlearner(model.model, arguments, pairs, objective, after_step, phase, follower)
        found = trainer.phase.found()
        if found is None:
            trainer.train()
        elif not trainer.ended_at(found):
            trainer.train(resume_from_checkpoint=str(found))
    model.model.eval()
    model.changed()


class Follower(Resumable, Protocol):
    """What follows a training step by step."""

    log: list[dict[str, Any]]
    """The last entry is of the last step."""


@dataclass
class Seen:
    """What this process saw of a step."""

    forget_loss: float = 0.0
    retain_loss: float = 0.0
    tokens: float = 0.0


class Judged(nn.Module):
    """A model and what is asked of it, as the one module that several processes share."""

    def __init__(self, network: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.network = network
        self.objective = objective

    def forward(self, batch: MicroBatch) -> Losses:
        """The losses of one micro-batch."""
        return self.objective(self.network, batch)


class Unlearner(Trainer):
    """A Trainer whose loss is an ``Objective`` and whose end is decided after each step."""

    # The objective divides by the sizes of the whole step already.
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        model: Any,
        arguments: TrainingArguments,
        pairs: Pairs,
        objective: Objective,
        after_step: Callable[[Step], bool],
        phase: Phase | None = None,
        follower: Follower | None = None,
    ) -> None:
        super().__init__(model=Judged(model, objective), args=arguments, train_dataset=pairs)
        self.remove_callback(PrinterCallback)
        self.network = model
        self.follower = follower
        self.after_step = after_step
        self.pairs = pairs
        self.phase = phase or NOWHERE.phase("training")
        parts = {"pairs": pairs, "objective": objective, "follower": follower}
        self.parts = {name: part for name, part in parts.items() if isinstance(part, Resumable)}
        """What goes into a checkpoint beside the tensors that train."""
        self.run_dir = Path(str(arguments.output_dir))
        self.tokens = 0
        self.seen = Seen()
        self.ended = False

    def get_train_dataloader(self) -> Any:
        """The stream as it is: it makes its own batches."""
        generator = torch.Generator().manual_seed(self.args.seed)
        return DataLoader(self.pairs, batch_size=None, collate_fn=_unchanged, generator=generator)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """A linear warm-up whose first step moves, unlike the library's, then the schedule."""
        warmup = self.pairs.config.warmup_steps
        optimizer = optimizer or self.optimizer

        def factor(step: int) -> float:
            rising = min(1.0, (step + 1) / (warmup + 1))
            if self.pairs.config.schedule == "constant":
                return rising
            return rising * (1 + math.cos(math.pi * step / num_training_steps)) / 2

        self.lr_scheduler = LambdaLR(optimizer, factor)
        return self.lr_scheduler

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        batch: MicroBatch = inputs["batch"]
        parts = (batch.forget, batch.retain, batch.near)
        self.seen.tokens += sum(int(part.attention.sum()) for part in parts if part is not None)
        forget, retain, near = (part and part.to(self.args.device) for part in parts)
        assert forget is not None
        return {"batch": batch._replace(forget=forget, retain=retain, near=near)}

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Tensor:
        """The objective's loss, without dropout."""
        model.eval()  # the Trainer switches to training mode before every step
        losses: Losses = model(**inputs)
        if not torch.isfinite(losses.total):
            raise NumericalError(
                f"the loss is {losses.total.item()} at step {self.state.global_step + 1}; lower "
                "learning_rate, or use a bounded variant"
            )
        self.seen.forget_loss += float(losses.forget)
        self.seen.retain_loss += float(losses.retain)
        # Gradients are averaged over processes, and each has its share of the sum.
        return losses.total * float(self.args.world_size)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """The step goes to ``after_step``, which says whether to stop, and then to the tracker."""
        if "grad_norm" not in logs:
            return
        forget, retain, tokens = processes.summed(list(astuple(self.seen)))
        self.seen, self.tokens = Seen(), self.tokens + int(tokens)
        norm, rate = logs["grad_norm"], logs["learning_rate"]
        step = Step(self.state.global_step, forget, retain, norm, rate, self.tokens)
        stops = processes.as_the_first_says(self.after_step(step))
        entry = step._asdict() if self.follower is None else self.follower.log[-1]
        figures = {name: v for name, v in entry.items() if isinstance(v, int | float)}
        self.callback_handler.on_log(self.args, self.state, self.control, figures)
        self.ended = stops or step.step >= self.state.max_steps
        self.control.should_training_stop = self.ended
        self.control.should_save = self.args.should_save and self.phase.due(self.ended)

    def store_flos(self) -> None:
        """They are not counted, and counting would wait for processes that do not save."""

    def ended_at(self, folder: Path) -> bool:
        """Whether training was over at this checkpoint; its end is then the state of it all."""
        own = _read(folder)
        self.phase.work.say(f"{self.phase.name} goes on after step {own['step']}")
        if own["ended"]:
            self._load_from_checkpoint(str(folder))
        return bool(own["ended"])

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self.phase.write(self._fill)

    def _fill(self, folder: Path) -> None:
        """Writes all that a run is gone on with into an empty folder."""
        elsewhere, self.run_dir = self.run_dir, folder
        super()._save_checkpoint(self.network, None)
        self.run_dir = elsewhere
        (made,) = folder.iterdir()  # the library puts the number of the step into its name
        for file in made.iterdir():
            file.rename(folder / file.name)
        made.rmdir()
        own = {
            "step": self.state.global_step,
            "ended": self.ended,
            "tokens": self.tokens,
            "parts": {name: part.state() for name, part in self.parts.items()},
        }
        torch.save(own, folder / OWN)

    def _get_output_dir(self, trial: Any) -> str:
        return str(self.run_dir)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Of the model only what trains: the rest is in the original."""
        folder = Path(str(output_dir))
        folder.mkdir(parents=True)
        tensors = {name: p.detach().contiguous() for name, p in self._trained().items()}
        save_file(tensors, folder / TRAINED)

    @torch.no_grad()
    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        folder = Path(resume_from_checkpoint)
        own = _read(folder)
        tensors, trained = load_file(folder / TRAINED), self._trained()
        assert set(tensors) == set(trained)
        for name, parameter in trained.items():
            parameter.copy_(tensors[name])
        self.tokens = own["tokens"]
        for name, part in self.parts.items():
            part.resume(own["parts"][name])

    def _trained(self) -> dict[str, Any]:
        return {name: p for name, p in self.network.named_parameters() if p.requires_grad}


def _read(folder: Path) -> dict[str, Any]:
    """What only we know of a checkpoint."""
    try:
        load_file(folder / TRAINED)
        own: dict[str, Any] = torch.load(folder / OWN, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, UnpicklingError, SafetensorError) as error:
        raise InputError(f"{folder} is damaged; remove it to begin anew") from error
    return own


def _arguments(model: LanguageModel, pairs: Pairs, seed: int, folder: str) -> TrainingArguments:
    config = pairs.config
    arguments = TrainingArguments(
        # Trackers put their files below it, and these are to stay.
        output_dir=folder if config.report_to == "none" else ".",
        seed=seed,
        max_steps=config.steps(len(pairs.forget)),
        per_device_train_batch_size=1,
        gradient_accumulation_steps=pairs.accumulation,
        learning_rate=config.learning_rate,
        max_grad_norm=config.max_grad_norm,
        # Decay would move entries that receive no gradient, and so leak through masks.
        weight_decay=0.0,
        optim="adamw_torch",
        logging_strategy="steps",
        logging_steps=1,
        logging_nan_inf_filter=False,
        # When to save is decided after each step. What was drawn is in the state of the pairs.
        save_strategy="no",
        ignore_data_skip=True,
        report_to=config.report_to,
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        use_cpu=model.device.type == "cpu",
    )
    # One device holds the whole model; more would wrap it into replicas.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def _unchanged(item: Any) -> Any:
    return item


@contextmanager
def preserved_randomness() -> Iterator[None]:
    """Global random states of Python, NumPy and torch as they were before the block."""
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        if cuda:
            torch.cuda.set_rng_state_all(cuda)
