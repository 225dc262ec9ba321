"""LanguageModel: weights, tokenizer, anatomy and digest of one decoder."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from os import PathLike, fspath
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

import torch

from unlearn.errors import ModelError, UnsupportedError
from unlearn.model import encoding
from unlearn.model.encoding import Encoding, Reading
from unlearn.model.loading import SCHEMES, Trust, quiet, read
from unlearn.model.policy import NOTHING, Policy

if TYPE_CHECKING:
    from unlearn.model.anatomy import Anatomy

__all__ = ["SCHEMES", "Encoding", "LanguageModel", "digest_of"]

CONTEXT_FIELDS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length")


class LanguageModel:
    """A causal language model with its tokenizer, always in evaluation mode when handed out.

    >>> model = LanguageModel.load("lab:full")                     # doctest: +SKIP
    >>> model.encode("Ada Quill was born in", " Tarn").start       # doctest: +SKIP
    7
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        source: str = "memory",
        policy: Policy = NOTHING,
    ) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise ModelError(
                f"the tokenizer of {source} ({type(tokenizer).__name__}) has no character offsets; "
                "give the model a fast one (a tokenizer.json)"
            )
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.source = source
        self.policy = policy
        """What is done to each prompt; a new one makes it another model."""

    @classmethod
    def load(
        cls,
        source: str | PathLike[str],
        *,
        revision: str | None = None,
        device: str = "cpu",
        dtype: str = "float32",
        trust_remote_code: bool = False,
        allow_pickle: bool = False,
    ) -> LanguageModel:
        """The model that a folder, a hub id (``id@revision``) or a scheme (``lab:full``) names.

        Raises:
            ModelError: there is none, or it is no causal language model with a fast tokenizer.
            UnsafeModelError: it needs pickle or its own code, and that was not allowed.
            ConfigError: an unknown device or dtype.
        """
        name = fspath(source)
        loaded = read(name, revision, device, dtype, Trust(trust_remote_code, allow_pickle))
        return cls(loaded.model, loaded.tokenizer, name)

    def save(self, path: str | PathLike[str]) -> None:
        """Write a model folder: safetensors, config and tokenizer, file by file replaced.

        Safe on the folder the model came from, which may still be mapped into its memory.

        Raises:
            UnsupportedError: something is done to its prompts, which weights cannot hold.
        """
        self.require_bare("a model folder")
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder) as fresh, quiet():
            self.model.save_pretrained(fresh)
            self.tokenizer.save_pretrained(fresh)
            new = list(Path(fresh).iterdir())
            for stale in ("model*.safetensors", "*.safetensors.index.json"):
                for old in folder.glob(stale):
                    old.unlink()
            for file in new:
                file.replace(folder / file.name)

    def copy(self) -> LanguageModel:
        """The same model on its own tensors; ties between tensors stay."""
        return LanguageModel(copy.deepcopy(self.model), self.tokenizer, self.source, self.policy)

    def require_bare(self, what: str) -> None:
        """Nothing, if this model reads its prompts as they are.

        Raises:
            UnsupportedError: it has a policy, and ``what`` has no place for it.
        """
        if self.policy:
            raise UnsupportedError(
                f"{what} is of weights, and {self.source} is served with a policy for its "
                "prompts, which no weights hold; take the model without it"
            )

    def bare(self) -> LanguageModel:
        """The same weights without a policy; the model itself where it has none."""
        if not self.policy:
            return self
        return LanguageModel(self.model, self.tokenizer, self.source)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over every tensor's name, type, shape and bytes; see ``digest_of``.

        With a policy also over that. Kept until ``changed`` is called.
        """
        weights = digest_of(self.model.state_dict())
        return self.policy.digest_with(weights) if self.policy else weights

    @cached_property
    def anatomy(self) -> Anatomy:
        """Where this model keeps its blocks, attention, MLP, norm and embeddings."""
        from unlearn.model.anatomy import find_anatomy

        return find_anatomy(self.model)

    def changed(self) -> None:
        """Forget the digest: the weights were written to."""
        self.__dict__.pop("digest", None)

    def encode(self, prompt: str, completion: str = "") -> Encoding:
        """Token ids of prompt and completion in one go, and where the completion starts.

        Special tokens are added in front as the tokenizer does, never behind. What the policy
        puts around the prompt counts as prompt.

        Raises:
            InputError: a completion without tokens, or a text longer than the context.
            UnsupportedError: the policy does more to this prompt than put words around it.
        """
        (encoded,) = self.encode_all([(prompt, completion)])
        return encoded

    def encode_all(self, texts: Sequence[tuple[str, str]]) -> Iterator[Encoding]:
        """``encode`` of each pair of prompt and completion, in order."""
        for reading in self.read_all(texts):
            if not reading.is_words:
                raise UnsupportedError(
                    f"the policy of {self.source} corrupts a prompt or replies to it itself, which "
                    "only scoring and generation honour; take the model without it (`bare()`)"
                )
            yield reading.encoding

    def read_all(self, texts: Sequence[tuple[str, str]], n_new: int = 0) -> Iterator[Reading]:
        """Each pair of prompt and completion as the model gets it under its policy, in order.

        Of what the policy puts in front, so much is taken as leaves room for ``n_new`` tokens more.
        Whoever calls this honours all of a reading.

        Raises:
            InputError: a completion without tokens, or a text longer than the context.
        """
        prompts = [prompt for prompt, _ in texts]
        treatments = self.policy.treat(self.bare(), prompts)
        room = self.context_length
        for reading in encoding.read(self.tokenizer, texts, room, treatments, n_new):
            if max(reading.encoding.ids, default=0) >= self.vocabulary_size:
                raise ModelError(
                    f"the tokenizer of {self.source} gave token {max(reading.encoding.ids)}, but "
                    f"the model has {self.vocabulary_size} embeddings; they do not belong together"
                )
            yield reading

    def subject_span(
        self, prompt: str, subject: str, occurrence: Literal["first", "last"] = "last"
    ) -> range:
        """The positions of the subject's tokens in ``encode(prompt).ids``.

        Raises:
            ForgetSetError: the subject does not occur in the prompt.
        """
        (reading,) = self.read_all([(prompt, "")])
        return encoding.subject_span(self.tokenizer, prompt, subject, occurrence, reading.front)

    @cached_property
    def adds_bos(self) -> bool:
        """Whether the tokenizer puts a token in front of every text."""
        (tokens,) = encoding.tokenise(self.tokenizer, [encoding.PROBE])
        return tokens.n_added > 0

    @property
    def eos_ids(self) -> frozenset[int]:
        """The tokens that end a generated text, after generation config and tokenizer."""
        config = getattr(self.model, "generation_config", None)
        named = getattr(config, "eos_token_id", None)
        ids = named if isinstance(named, (list, tuple)) else [named]
        return frozenset(int(i) for i in (*ids, self.tokenizer.eos_token_id) if i is not None)

    @property
    def context_length(self) -> int | None:
        """The most tokens the model takes, or None where its config names no limit."""
        config = self.model.config.get_text_config(decoder=True)
        lengths = (getattr(config, field, None) for field in CONTEXT_FIELDS)
        return next((n for n in lengths if isinstance(n, int) and n > 0), None)

    @property
    def vocabulary_size(self) -> int:
        """How many tokens the model has embeddings for."""
        return int(self.model.get_input_embeddings().weight.shape[0])

    @property
    def device(self) -> torch.device:
        """Where token ids must be put."""
        device: torch.device = self.model.get_input_embeddings().weight.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the model's floating-point weights."""
        dtype: torch.dtype = self.model.dtype
        return dtype

    @property
    def n_parameters(self) -> int:
        """How many numbers the model learned; tied weights count once."""
        return sum(parameter.numel() for parameter in self.model.parameters())


def digest_of(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over name, type, shape and raw bytes of each tensor, in order of name.

    Names that are views of the very same memory (tied weights) count once, under the name that
    sorts first, so the digest says what the model computes with and not how it was stored.
    """
    total = hashlib.sha256()
    seen: set[tuple[Any, ...]] = set()
    for name in sorted(tensors):
        tensor = tensors[name].detach()
        place = (str(tensor.device), tensor.dtype, tensor.data_ptr(), tensor.shape, tensor.stride())
        if tensor.numel() and place in seen:
            continue
        seen.add(place)
        header = [name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape)]
        total.update(json.dumps(header).encode() + b"\n")
        raw = tensor.cpu().contiguous().reshape(-1).view(torch.uint8)
        total.update(raw.numpy().data)
    return total.hexdigest()
