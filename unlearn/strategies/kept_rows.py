"""Tensors of many statements, kept in memory or, beyond a limit, in a memory-mapped file."""

from __future__ import annotations

import shutil
import weakref
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor


class KeptRows:
    """Columns in which every statement has as many entries as positions, one after the other.

    >>> kept = KeptRows({"tail": torch.zeros(5)}, lengths=[2, 3], memory=2**30)   # doctest: +SKIP
    >>> kept.at("tail", [1]).shape                                                # doctest: +SKIP
    torch.Size([3])
    """

    def __init__(self, columns: Mapping[str, Tensor], lengths: Sequence[int], memory: int) -> None:
        """Keep the columns; beyond ``memory`` bytes in a temporary file that goes with this."""
        self.ends = list(accumulate(lengths, initial=0))
        self.columns: Mapping[str, Any] = columns
        self.folder: Path | None = None
        if sum(tensor.nbytes for tensor in columns.values()) > memory:
            self.folder = Path(mkdtemp(prefix="kept-rows-"))
            weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
            path = self.folder / "rows.safetensors"
            save_file({name: tensor.contiguous() for name, tensor in columns.items()}, path)
            opened: Any = safe_open(path, "pt")
            self.columns = {name: opened.get_slice(name) for name in columns}

    def at(self, column: str, statements: Iterable[int]) -> Tensor:
        """The entries of the statements in one column."""
        rows = self.columns[column]
        return torch.cat([rows[self.ends[i] : self.ends[i + 1]] for i in statements])
