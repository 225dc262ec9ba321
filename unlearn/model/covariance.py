"""The second moment of keys: which directions of a down-projection's input a model lives in.

C = E[k kᵀ], not centred, over every token of some texts. An edit along C⁻¹ k changes what the MLP
answers to k and, among all such edits, least what it answers to those tokens (Meng et al. 2022).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple
from warnings import warn

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from unlearn.errors import ConfigError, InputError, NumericalError
from unlearn.model.activations import by_length, read_inputs
from unlearn.model.encoding import tokenise
from unlearn.model.language_model import LanguageModel, digest_of

VERSION = "1"
"""Goes up whenever the same inputs would give other numbers, or the file another form."""
TENSOR = "second_moment"
CHECKSUM = "checksum"
ENOUGH = 4
"""So many tokens for each dimension, or a moment says that it is scarce."""


class SecondMoment(NamedTuple):
    """E[k kᵀ] at one layer."""

    matrix: Tensor
    """(width, width), float64 on the CPU: its small eigenvalues are what an inverse is made of, and
    the rounding of a float32 sum of many tokens is as large as they are."""
    n_tokens: int

    @property
    def scarce(self) -> bool:
        """Whether it is from fewer than four tokens for each dimension.

        Fewer than one, and it has no inverse without a ridge; with few, the inverse exaggerates the
        directions that these texts happened not to take.
        """
        return self.n_tokens < ENOUGH * len(self.matrix)

    def ridged(self, ridge: float) -> Tensor:
        """C + ridge · mean(diag C) · I: what no text showed counts as that share of the usual.

        Raises:
            ConfigError: a ridge that is negative or not finite.
        """
        if not 0 <= ridge < float("inf"):
            raise ConfigError(f"ridge is {ridge}, but must be 0 or more")
        scale = ridge * self.matrix.diagonal().mean()
        return self.matrix + scale * torch.eye(len(self.matrix), dtype=self.matrix.dtype)


def solve(matrix: Tensor, keys: Tensor) -> Tensor:
    """C⁻¹ k in float64, for one key (width) or for each of several (key, width).

    Raises:
        NumericalError: the matrix is not positive definite.
    """
    factor, failed = torch.linalg.cholesky_ex(matrix.double())
    if failed.item() or not torch.isfinite(factor).all():
        raise NumericalError(
            f"a second moment of width {len(matrix)} is not positive definite, so it cannot be "
            "solved; give it a larger ridge, or more tokens"
        )
    columns = keys.double().reshape(-1, len(matrix)).T
    return torch.cholesky_solve(columns, factor).T.reshape(keys.shape)


def second_moments(
    lm: LanguageModel,
    layers: Sequence[int],
    texts: Iterable[str],
    *,
    n_tokens: int,
    max_text_tokens: int = 1024,
    max_batch_tokens: int = 4096,
    cached: bool = True,
    progress: Callable[[str, float], None] | None = None,
) -> dict[int, SecondMoment]:
    """Layer to the second moment of what goes into its down-projection, all from the same passes.

    Args:
        lm: the model; it is left as it was.
        layers: the blocks.
        texts: read in order, and no further than needed.
        n_tokens: exactly so many tokens count, each token of a text once, an added BOS too, because
            an edit must leave its key alone like any other.
        max_text_tokens: a longer text is cut there, or at the model's context if that is shorter.
        max_batch_tokens: tokens in a forward pass, padding counted.
        cached: look on disk first and keep there what was computed; see ``cache_folder``. The
            matrices are averages over the texts' tokens, but of few texts they may betray something
            of them.
        progress: gets ``"second moment"`` and the share that is done.

    Raises:
        UnsupportedError: a layer without a down-projection, such as a mixture of experts.
        InputError: texts with fewer tokens than ``n_tokens``, or no such layer.
        ConfigError: a setting out of range.
        NumericalError: an input that is not finite.
    """
    modules = {layer: lm.anatomy.require_down_projection(layer) for layer in layers}
    rows = _rows(lm, texts, n_tokens, max_text_tokens)
    names = {module: _name(lm, module, rows) for module in modules.values()}
    found = {module: _load(name) for module, name in names.items()} if cached else {}
    moments = {module: matrix for module, matrix in found.items() if matrix is not None}
    missing = [module for module in names if module not in moments]
    if missing:
        computed = _compute(lm, missing, rows, max_batch_tokens, progress)
        moments.update(computed)
        if cached:
            for module, matrix in computed.items():
                _save(names[module], matrix)
    return {layer: SecondMoment(moments[module], n_tokens) for layer, module in modules.items()}


def cache_folder() -> Path:
    """Where computed moments are kept: ``$UNLEARN_CACHE``, or ``~/.cache/unlearn``."""
    named = os.environ.get("UNLEARN_CACHE")
    return Path(named) if named else Path.home() / ".cache" / "unlearn"


def _rows(
    lm: LanguageModel, texts: Iterable[str], n_tokens: int, max_text_tokens: int
) -> list[list[int]]:
    """The texts as tokens, ``n_tokens`` altogether."""
    for setting, value in (("n_tokens", n_tokens), ("max_text_tokens", max_text_tokens)):
        if value < 1:
            raise ConfigError(f"{setting} is {value}, but must be at least 1")
    longest = min(max_text_tokens, lm.context_length or max_text_tokens)
    rows, missing = [], n_tokens
    for text in texts:
        for ids, _, n_added in tokenise(lm.tokenizer, [text]):
            if len(ids) > n_added:
                rows.append(ids[: min(longest, missing)])
                missing -= len(rows[-1])
        if not missing:
            return rows
    raise InputError(
        f"the texts hold {n_tokens - missing} tokens, but the second moment is to be of "
        f"{n_tokens}; give more text, or ask for fewer"
    )


def _compute(
    lm: LanguageModel,
    modules: Sequence[str],
    rows: Sequence[Sequence[int]],
    max_batch_tokens: int,
    progress: Callable[[str, float], None] | None,
) -> dict[str, Tensor]:
    """Module to E[k kᵀ] over all tokens of the rows, summed in float64."""
    sums: dict[str, Tensor] = {}
    done, n_tokens = 0, sum(map(len, rows))
    for group in by_length(rows, max_batch_tokens):
        inputs = read_inputs(lm, modules, [rows[index] for index in group])
        for module, values in inputs.of.items():
            keys = values[inputs.mask.to(values.device)]  # (token, width)
            keys = (keys.cpu() if keys.device.type == "mps" else keys).double()  # mps has none
            product = keys.T @ keys
            sums[module] = sums[module].add_(product) if module in sums else product
        done += sum(len(rows[index]) for index in group)
        if progress is not None:
            progress("second moment", done / n_tokens)
    for module, total in sums.items():
        if not torch.isfinite(total).all():
            raise NumericalError(
                f"what goes into {module!r} is not finite; the model's weights are broken, or "
                "their dtype is too narrow (try float32)"
            )
    return {module: (total / n_tokens).cpu() for module, total in sums.items()}


def _name(lm: LanguageModel, module: str, rows: Sequence[Sequence[int]]) -> Mapping[str, str]:
    """All that the numbers depend on; the texts as tokens, so the tokenizer is in it too."""
    return {
        "version": VERSION,
        "model": lm.digest,
        "module": module,
        "tokens": hashlib.sha256(json.dumps(rows).encode()).hexdigest(),
        "n_tokens": str(sum(map(len, rows))),
    }


def _path(name: Mapping[str, str]) -> Path:
    digest = hashlib.sha256(json.dumps(name, sort_keys=True).encode()).hexdigest()
    return cache_folder() / "second-moments" / f"{digest}.safetensors"


def _load(name: Mapping[str, str]) -> Tensor | None:
    """What was kept under that name; None, with a warning, where it is damaged."""
    path = _path(name)
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            matrix: Tensor = file.get_tensor(TENSOR)
    except (SafetensorError, OSError):
        metadata = {}
    if metadata and metadata == {**name, CHECKSUM: digest_of({TENSOR: matrix})}:
        return matrix
    warn(f"{path} is damaged; it is computed and written again", stacklevel=3)
    return None


def _save(name: Mapping[str, str], matrix: Tensor) -> None:
    """Keep it under that name, whole or not at all; a disk that refuses costs only a warning."""
    path = _path(name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=path.parent) as folder:
            fresh = Path(folder) / path.name
            metadata = {**name, CHECKSUM: digest_of({TENSOR: matrix})}
            save_file({TENSOR: matrix}, fresh, metadata=metadata)
            fresh.replace(path)
    except (OSError, SafetensorError) as error:
        warn(
            f"a second moment could not be kept in {path.parent} ({error}), so it will be computed "
            "again next time; set UNLEARN_CACHE to a folder that can be written",
            stacklevel=3,
        )
