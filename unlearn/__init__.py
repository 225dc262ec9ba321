"""Make language models forget, and prove how far that went."""

__version__ = "0.1.0"
