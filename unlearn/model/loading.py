"""From a name to weights: folders, hub ids and scheme sources, safetensors only unless allowed."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.utils.tqdm import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from unlearn.errors import ConfigError, ModelError, UnsafeModelError

SCHEMES: dict[str, Callable[[str], Path]] = {}
"""Scheme to resolver: ``lab:full`` is the folder that ``SCHEMES["lab"]("full")`` returns."""

DTYPES = ("float32", "bfloat16", "float16", "float64", "auto")
"""``auto`` keeps the type the weights were saved in."""

PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")
HUB_ID = re.compile(r"(?:[A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*")
HUB_FILES = ("*.json", "*.txt", "*.model", "*.jinja")
TOKENIZER_FILES = ("tokenizer.json", "*.model", "*vocab*", "*.tiktoken", "tekken.json")
"""At least one of these holds the vocabulary; ``tokenizer_config.json`` holds only settings."""


class Loaded(NamedTuple):
    """A model and its tokenizer, as transformers read them."""

    model: Any
    tokenizer: Any


class Trust(NamedTuple):
    """What the user explicitly allows a model folder to run."""

    remote_code: bool = False
    pickle: bool = False


def read(source: str, revision: str | None, device: str, dtype: str, trust: Trust) -> Loaded:
    """The model and tokenizer that ``source`` names.

    Raises:
        ModelError: there is none, it is not a causal language model, or its files do not fit.
        UnsafeModelError: it needs pickle or its own code, and ``trust`` does not allow that.
        ConfigError: an unknown device or dtype.
    """
    place = checked_device(device)
    if dtype not in DTYPES:
        raise ConfigError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}")
    with quiet():
        folder = resolve(source, revision, trust)
        safe = check_folder(folder, source, trust)
        return read_folder(folder, source, dtype, place, safe, trust)


def resolve(source: str, revision: str | None, trust: Trust) -> Path:
    """The folder that holds what ``source`` names, downloaded first if it is a hub id."""
    scheme, colon, rest = source.partition(":")
    if colon and scheme in SCHEMES:
        return SCHEMES[scheme](rest)
    folder = Path(source).expanduser()
    if source and folder.is_dir():
        return folder
    if source and folder.exists():
        raise ModelError(f"{source} is a file; give the model's folder")
    name, at, tag = source.partition("@")
    if not HUB_ID.fullmatch(name):
        known = ", ".join(f"{known}:" for known in sorted(SCHEMES)) or "none"
        raise ModelError(
            f"there is no folder {source!r}, and it is no hub id either (schemes known: {known})"
        )
    if at and revision is not None and revision != tag:
        raise ModelError(f"{source!r} names revision {tag!r} and revision={revision!r} another")
    return download(name, tag if at else revision, trust)


def download(name: str, revision: str | None, trust: Trust) -> Path:
    """The folder with a hub model's files: safetensors and JSON, more only where it is trusted."""
    wanted = [*HUB_FILES, *(["*.py"] if trust.remote_code else [])]

    def fetch(weights: list[str]) -> Path:
        return Path(
            snapshot_download(
                name,
                revision=revision,
                allow_patterns=[*wanted, *weights],
                ignore_patterns=["*/*", "consolidated*"],
            )
        )

    try:
        folder = fetch(["*.safetensors"])
        if trust.pickle and not any(folder.glob("*.safetensors")):
            folder = fetch(["*.bin"])
    except Exception as error:
        at = f"@{revision}" if revision else ""
        raise ModelError(
            f"'{name}{at}' is no folder here, and the hub did not give it "
            f"({first_sentence(error)}); check the name, or download the model and give its folder"
        ) from error
    return folder


def check_folder(folder: Path, source: str, trust: Trust) -> bool:
    """Whether the folder's weights are safetensors; an error if it cannot be loaded as it is."""
    if not (folder / "config.json").is_file():
        if (folder / "adapter_config.json").is_file():
            raise ModelError(f"{source} is an adapter; merge it into its base model first")
        raise ModelError(f"{source} is not a model folder: it has no config.json")
    if any(folder.glob("*.safetensors")):
        return True
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLE_SUFFIXES)
    if pickles and trust.pickle:
        return False
    if pickles:
        raise UnsafeModelError(
            f"{source} has its weights in a pickle ({pickles[0]}), which can run any code when "
            "read; convert it with save_pretrained to safetensors, or allow it with "
            "allow_pickle=True (--allow-pickle on the command line)"
        )
    raise ModelError(f"{source} has no weights in safetensors format (*.safetensors)")


def read_folder(
    folder: Path, source: str, dtype: str, device: torch.device, safe: bool, trust: Trust
) -> Loaded:
    """The model, on its device, and its tokenizer, out of a checked folder."""
    code: dict[str, Any] = {"trust_remote_code": trust.remote_code}
    if not trust.remote_code:
        check_tokenizer(folder, source)
    try:
        # With output_loading_info it returns a pair, which its annotation does not say.
        pair: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            use_safetensors=safe,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **code,
        )
    except SafetensorError as error:
        raise ModelError(
            f"the weights of {source} are damaged ({first_sentence(error)}); copy or download the "
            "*.safetensors files again"
        ) from error
    except Exception as error:
        if "trust_remote_code" in str(error):
            raise UnsafeModelError(
                f"{source} brings its own Python code, which is never run unasked; read it, then "
                "allow it with trust_remote_code=True (--trust-remote-code on the command line)"
            ) from error
        raise ModelError(f"{source} cannot be loaded: {first_sentence(error)}") from error
    model, report = pair
    check_complete(report, source)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **code)
    except Exception as error:
        raise ModelError(
            f"the tokenizer of {source} cannot be loaded ({tokenizer_problem(error)}); copy all "
            "tokenizer files again from the model it was made from"
        ) from error
    return Loaded(model.to(device), tokenizer)


def check_tokenizer(folder: Path, source: str) -> None:
    """Raise ModelError if no file of the folder holds a vocabulary."""
    if not any(path for pattern in TOKENIZER_FILES for path in folder.glob(pattern)):
        raise ModelError(
            f"{source} has no tokenizer: there is no tokenizer.json, tokenizer.model or vocabulary "
            "in it; copy the tokenizer files there from the model it was made from"
        )


def tokenizer_problem(error: Exception) -> str:
    """What kept a tokenizer from loading, in one sentence."""
    # The first sentence of this one ends in front of a list of what transformers tried.
    if "instantiate the backend tokenizer" in str(error):
        return "some of its files are missing or damaged"
    return first_sentence(error)


def check_complete(report: dict[str, Any], source: str) -> None:
    """Raise ModelError if the weights left any tensor of the model random."""
    mismatched = sorted(str(key[0]) for key in report["mismatched_keys"])
    for what, names in (
        ("are missing", sorted(report["missing_keys"])),
        ("differ in shape", mismatched),
    ):
        if names:
            raise ModelError(
                f"{source}: {len(names)} tensors of the model {what} in its weights, {names[0]} "
                "first, and would be random; the weights do not belong to this config.json"
            )


def checked_device(device: str) -> torch.device:
    """The device of that name, if this machine has it."""
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        # Torch answers an unknown kind with a list of some twenty, most of them hardware of few.
        unknown = "device type at start" in str(error) or "Invalid device string" in str(error)
        why = "there is no such device" if unknown else first_sentence(error)
        raise ConfigError(
            f"device {device!r} is not available: {why}; use cpu, cuda, cuda:1 or mps"
        ) from error
    return place


def first_sentence(error: Exception) -> str:
    """The first sentence of an error's message, or its type where it has none."""
    return re.split(r"\.?\n|\. ", str(error).strip())[0].rstrip(".") or type(error).__name__


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and no log lines of transformers and the hub, until the block ends."""
    level = transformers_logging.get_verbosity()
    control: Any = transformers_logging
    bars = transformers_logging.is_progress_bar_enabled()
    hub_bars = not are_progress_bars_disabled()
    transformers_logging.set_verbosity(logging.CRITICAL)
    control.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            control.enable_progress_bar()
        if hub_bars:
            enable_progress_bars()
        else:
            disable_progress_bars()
