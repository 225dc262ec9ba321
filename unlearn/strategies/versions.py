"""Which versions of what produced an artifact."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from platform import python_version

PACKAGES = ("unlearn-toolkit", "torch", "transformers", "accelerate", "peft", "numpy")


def versions() -> dict[str, str]:
    """Package name to version, of those installed, and Python's."""
    found = {"python": python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
