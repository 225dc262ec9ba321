"""The options that every command takes, as one decorator and one value."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import click

DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Options:
    """What the shared options of one call said."""

    seed: int
    json: bool
    """Whether stdout carries one JSON document instead of text."""
    device: str
    dtype: str
    quiet: bool
    """Whether stderr stays silent but for errors."""
    trust_remote_code: bool = False
    allow_pickle: bool = False


def shared(command: Callable[..., None]) -> Callable[..., None]:
    """A command that takes the shared options and gets them as its first argument, ``options``."""
    return _with_options(command, SEED, DEVICE, DTYPE)


def shared_idle(command: Callable[..., None]) -> Callable[..., None]:
    """The same for a command that loads no model and draws nothing.

    It takes every shared option, so that a script can pass the same ones to all commands.
    """
    return _with_options(command, *[f"No effect here. {text}" for text in (SEED, DEVICE, DTYPE)])


SEED = "Seed of everything that is drawn at random."
DEVICE = "Where models run: cpu, cuda, cuda:1, mps."
DTYPE = "Number format of the models."


def _with_options(
    command: Callable[..., None], seed_help: str, device_help: str, dtype_help: str
) -> Callable[..., None]:
    known = click.Choice(DTYPES)

    @click.option("--seed", type=click.IntRange(0), default=0, metavar="N", help=seed_help)
    @click.option("--json", is_flag=True, help="Print the result as one JSON document.")
    @click.option("--device", default="cpu", show_default=True, metavar="NAME", help=device_help)
    @click.option("--dtype", type=known, default="float32", show_default=True, help=dtype_help)
    @click.option("-q", "--quiet", is_flag=True, help="No progress on stderr.")
    @functools.wraps(command)
    def run(seed: int, json: bool, device: str, dtype: str, quiet: bool, **arguments: Any) -> None:
        command(Options(seed, json, device, dtype, quiet), **arguments)

    return run


def trust(command: Callable[..., None]) -> Callable[..., None]:
    """A ``shared`` command that loads models and may be told to run what they bring along."""

    @click.option(
        "--trust-remote-code", is_flag=True, help="Run Python code that a model folder brings."
    )
    @click.option(
        "--allow-pickle", is_flag=True, help="Read weights from a pickle, which can run any code."
    )
    @functools.wraps(command)
    def run(
        options: Options, *, trust_remote_code: bool, allow_pickle: bool, **arguments: Any
    ) -> None:
        trusting = replace(options, trust_remote_code=trust_remote_code, allow_pickle=allow_pickle)
        command(trusting, **arguments)

    return run


def settings(command: Callable[..., None]) -> Callable[..., None]:
    """A command that takes ``--set key=value`` any number of times, as one mapping."""
    return click.option(
        "--set",
        "settings",
        multiple=True,
        metavar="KEY=VALUE",
        callback=_pairs,
        help="Change one setting of the method; may be given more than once.",
    )(command)


def force(command: Callable[..., None]) -> Callable[..., None]:
    """A command that writes, and may be told to write where something else already is."""
    return click.option(
        "--force",
        is_flag=True,
        help="Write even where other files are; only files in the way are replaced.",
    )(command)


def reason(command: Callable[..., None]) -> Callable[..., None]:
    """A command that may be told why."""
    return click.option(
        "--reason",
        default="",
        metavar="TEXT",
        help="Why, for the ledger: without the person's name, for it is kept when the request is "
        "closed.",
    )(command)


def _pairs(
    context: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> Mapping[str, str]:
    pairs: dict[str, str] = {}
    for value in values:
        key, equals, setting = value.partition("=")
        if not equals or not key.strip():
            raise click.BadParameter(f"{value!r} is not of the form key=value")
        if key.strip() in pairs:
            raise click.BadParameter(f"{key.strip()!r} is given twice")
        pairs[key.strip()] = setting.strip()
    return pairs
