"""Every error a user can cause, one tree.

* UnlearnError
  x InputError                 what was given cannot be used: names the file, line and field
    + ForgetSetError           a forget set that does not read
    + UnknownNameError         a strategy, locator or probe that does not exist
    + ConfigError              a setting that is unknown or out of range
    + TextError                a text that the model cannot take, such as one that is too long
  x ModelError                 a model that cannot be loaded or understood
    + UnsafeModelError         pickle weights or remote code, not explicitly allowed
    + AnatomyError             a part of the model that could not be found
    + EndpointError            a model behind a URL that does not answer as it should
  x UnsupportedError           the combination asked for is not possible, and why
  x ArtifactError              an artifact that is damaged or does not fit the model
  x NumericalError             a NaN or an infinity where a number was needed

A message says what was wrong (with the value), where, and what to do next. The command line prints
it as one line and exits with 2; anything that is not an ``UnlearnError`` is a bug: it traces, and
the exit code is 70.
"""

import hashlib


class UnlearnError(Exception):
    """Root of the errors a user can act on."""


class InputError(UnlearnError):
    """What was given cannot be used."""


class ForgetSetError(InputError):
    """A forget set that does not read."""


class UnknownNameError(InputError):
    """A strategy, locator or probe that does not exist."""


class ConfigError(InputError):
    """A setting that is unknown or out of range."""


class TextError(InputError):
    """A text that the model cannot take. It says what is wrong, and knows the text by a digest.

    The text may be personal, so it is in neither the message nor the error; whoever has the records
    finds the one it is from by ``digest_of``.
    """

    def __init__(self, reason: str, digest: str, name: str = "") -> None:
        super().__init__(f"{name}: {reason}" if name else reason)
        self.reason, self.digest = reason, digest

    @staticmethod
    def digest_of(prompt: str, completion: str) -> str:
        """What ``digest`` is for this prompt and completion."""
        pair = f"{len(prompt)} {prompt}{completion}".encode("utf-8", "surrogatepass")
        return hashlib.sha256(pair).hexdigest()


class ModelError(UnlearnError):
    """A model that cannot be loaded or understood."""


class UnsafeModelError(ModelError):
    """Pickle weights or remote code that nobody allowed."""


class AnatomyError(ModelError):
    """A part of the model that could not be found."""


class EndpointError(ModelError):
    """A model behind a URL that does not answer as it should."""

    def __init__(self, reason: str, status: int | None = None) -> None:
        super().__init__(reason)
        self.status = status
        """What HTTP says of the answer; ``None`` where there was none, or it did not read."""


class UnsupportedError(UnlearnError):
    """A combination that is not possible."""


class ArtifactError(UnlearnError):
    """An artifact that is damaged or does not fit the model."""


class NumericalError(UnlearnError):
    """A NaN or an infinity where a number was needed."""
