"""Checkpoints: what a run that was cut off had done, so that the next one goes on from there.

They lie in a work folder, which goes once the result is complete:

    run.json               what the run is of, each part as a digest
    PHASE/checkpoint/      the newest checkpoint of one training: the files of ``transformers``, the
                           tensors that train, and in ``unlearn.pt`` what only we know
    N-PART/artifact/       what a finished part of ``a+b`` gave

No text is in it: what was drawn and what is left to draw are places of records in their split. The
tensors know what the model knows, so that the folder is for its owner alone.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from safetensors import SafetensorError

from unlearn.artifact import Artifact
from unlearn.atomic_folder import appearing_at
from unlearn.errors import InputError

RUN = "run.json"
HEAD = "unlearn_run"

EVERY_S = 60.0
"""Seconds between checkpoints, unless told: a run that takes no longer never writes one."""

SHARE = 0.05
"""Of the time that writing them may take: large models get theirs less often."""


@runtime_checkable
class Resumable(Protocol):
    """Something with a state that changes while training, beside the tensors that train."""

    def state(self) -> dict[str, Any]:
        """It, made of tensors and plain Python values."""
        ...

    def resume(self, state: Mapping[str, Any]) -> None:
        """Go on from what ``state`` gave."""
        ...


@dataclass
class WorkFolder:
    """Where the checkpoints of one run lie. Nothing is there before the first one is written."""

    path: Path
    every: float
    say: Callable[[str], None]
    identity: dict[str, str] = field(default_factory=dict)
    goes_on: bool = False
    """Whether what lies there is of this very run."""
    claimed: bool = False

    def read(self) -> dict[str, str] | None:
        """What the run that is there was of; None where there is none.

        Raises:
            InputError: there is something else.
        """
        if not self.path.exists():
            return None
        try:
            found = json.loads((self.path / RUN).read_bytes())
            identity: dict[str, str] = found[HEAD]
        except (OSError, ValueError, KeyError, TypeError):
            raise InputError(
                f"{self.path} is where the checkpoints of this run would lie, and holds something "
                "else; move it away, or choose another output"
            ) from None
        return identity

    def claim(self) -> None:
        """Makes the folder this run's own; what another one left in it is gone."""
        if self.claimed:
            return
        if not self.goes_on:
            with appearing_at(self.path) as fresh:
                fresh.chmod(0o700)
                text = json.dumps({HEAD: self.identity}, indent=1) + "\n"
                (fresh / RUN).write_text(text, encoding="utf-8")
        for left in self.path.rglob(".*.partial"):
            shutil.rmtree(left, ignore_errors=True)
        self.claimed = True


@dataclass(frozen=True)
class Checkpoints:
    """What a strategy needs to be cut off without loss.

    >>> checkpoints = Checkpoints.at(Path(".forgotten.work"), resume=True)     # doctest: +SKIP
    >>> artifact = forget(model, forget_set, checkpoints=checkpoints)          # doctest: +SKIP
    >>> artifact.save("forgotten"); checkpoints.remove()                       # doctest: +SKIP
    """

    work: WorkFolder
    resume: bool = False
    within: str = ""
    """The part of the run that they are of, as the start of a path."""

    @classmethod
    def at(
        cls,
        folder: Path,
        *,
        resume: bool = False,
        every: float = EVERY_S,
        say: Callable[[str], None] = lambda line: None,
    ) -> Checkpoints:
        """Those in ``folder``, written every so many seconds of training.

        Args:
            folder: need not exist, and does not before the first checkpoint.
            resume: whether to go on from what lies there.
            every: seconds; 0 for each step, ``inf`` for none.
            say: gets a line on what is gone on from, and why nothing is.

        Raises:
            InputError: an interrupted run lies there and is not to be resumed, or something else.
        """
        made = cls(WorkFolder(folder, every, say), resume)
        if made.work.read() is not None and not resume:
            raise InputError(
                f"{folder} holds what an interrupted run had done; add --resume to go on from it, "
                "or remove it to begin anew"
            )
        return made

    def begin(self, **identity: str) -> None:
        """Says what the run is of. Checkpoints of any other are left aside."""
        work = self.work
        work.identity = {
            what.replace("_", " "): hashlib.sha256(value.encode()).hexdigest()
            for what, value in identity.items()
        }
        found = work.read()
        if not self.resume:
            return
        if found is None:
            work.say(f"there is nothing to resume in {work.path}; the run begins anew")
            return
        others = [what for what, digest in work.identity.items() if found.get(what) != digest]
        work.goes_on = not others
        if others:
            work.say(
                f"what lies in {work.path} is of a run with another {', another '.join(others)}; "
                "this one begins anew"
            )

    def nothing_to_resume(self, strategy: str) -> None:
        """Says that a strategy keeps no checkpoints, where it was to be resumed."""
        if self.resume:
            self.work.say(f"{strategy} has nothing to resume; it runs from the start")

    def part(self, name: str) -> Checkpoints:
        """Those of a part of the run, which has phases of its own."""
        return replace(self, within=f"{self.within}{name}/")

    def phase(self, name: str) -> Phase:
        """Those of one training."""
        return Phase(self.work, f"{self.within}{name}")

    def artifact(self, make: Callable[[], Artifact]) -> Artifact:
        """What the part gave when it was run before; else what ``make`` gives, kept from now on."""
        folder = self.work.path / self.within / "artifact"
        if self.work.goes_on and folder.is_dir():
            self.work.say(f"{self.within.rstrip('/')} was done before")
            return Artifact.load(folder)
        made = make()
        if math.isfinite(self.work.every):
            with giving_way(self.work.say):
                self.work.claim()
                made.save(folder)
        return made

    def remove(self) -> None:
        """Removes the folder: the result is complete."""
        if self.work.read() is not None:
            shutil.rmtree(self.work.path)


NOWHERE = Checkpoints(WorkFolder(Path(os.devnull, "unlearn"), math.inf, lambda line: None))
"""Those of a run that keeps none."""


@dataclass
class Phase:
    """The checkpoints of one training."""

    work: WorkFolder
    name: str
    written: bool = False

    def __post_init__(self) -> None:
        self.next = time.monotonic() + self.work.every

    def found(self) -> Path | None:
        """The checkpoint to go on from."""
        folder = self.work.path / self.name / "checkpoint"
        self.written = self.work.goes_on and folder.is_dir()
        return folder if self.written else None

    def due(self, ended: bool) -> bool:
        """Whether to write one now; the end of training is kept where anything of it was."""
        return time.monotonic() >= self.next or (ended and self.written)

    def write(self, fill: Callable[[Path], None]) -> None:
        """Puts the newest checkpoint where the last one was; ``fill`` writes it into a folder.

        If it cannot be written, the run goes on without any.
        """
        started, self.next = time.monotonic(), math.inf
        with giving_way(self.work.say):
            self.work.claim()
            with appearing_at(self.work.path / self.name / "checkpoint") as folder:
                fill(folder)
            self.written = True
            now, every = time.monotonic(), self.work.every
            self.next = now + (max(every, (now - started) / SHARE) if every else 0)


@contextmanager
def giving_way(say: Callable[[str], None]) -> Iterator[None]:
    """A block that writes what is good to have: where it cannot, that is said, and no error."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:  # torch raises the second
        reason = str(error).partition("\n")[0]
        say(f"no checkpoint could be written ({reason}); the run goes on without")
