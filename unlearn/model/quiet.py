"""Importing libraries that talk while they are imported."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_import() -> Iterator[None]:
    """Nothing below an error is logged, and no warning shown, until the block ends.

    torchao, which peft imports where it finds it, tells of every kernel that was built for another
    machine: none of them is used here.
    """
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
