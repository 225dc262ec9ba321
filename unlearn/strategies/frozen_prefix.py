"""The blocks below the lowest one that trains: run once for every statement, not at every step.

What goes into block l does not change while only blocks from l on train. It is computed before
training, and in training the blocks below are skipped. Outputs and gradients are the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from unlearn.model.batches import collate
from unlearn.model.forward import forward_only
from unlearn.model.hooks import capture, replace_first
from unlearn.model.language_model import Encoding, LanguageModel
from unlearn.model.restart import stubbed
from unlearn.model.runs import recorded
from unlearn.model.sweep import Decoder
from unlearn.strategies.kept_rows import KeptRows
from unlearn.strategies.predictions import BATCH


def lowest_trained(lm: LanguageModel, trainable: Iterable[str]) -> int:
    """The lowest block with a parameter that trains; 0 where one outside the blocks does.

    The final norm and an unembedding of its own come after all blocks and do not count.
    """
    blocks, after = lm.anatomy.layers, lm.anatomy.n_layers
    late = tuple(name for name in (lm.anatomy.final_norm, lm.anatomy.unembedding) if name)
    lowest = after
    for name in trainable:
        inside = [at for at, block in enumerate(blocks) if name.startswith(f"{block}.")]
        if inside:
            lowest = min(lowest, inside[0])
        elif not any(name.startswith(f"{module}.") for module in late):
            return 0
    return lowest


class FrozenPrefix:
    """The streams that go into one block, by the tokens of the text.

    >>> prefix = FrozenPrefix(model, layer=4, encodings=encodings, memory=2**30)  # doctest: +SKIP
    >>> with prefix.skipped():                                                    # doctest: +SKIP
    ...     model.model(input_ids=ids, attention_mask=mask)     # runs blocks 4 and up
    """

    def __init__(
        self, lm: LanguageModel, layer: int, encodings: Sequence[Encoding], memory: int
    ) -> None:
        """Runs the blocks below ``layer`` on every distinct text.

        The streams lie in a temporary file where they take more than ``memory`` bytes.
        """
        self.lm = lm
        self.blocks = [lm.model.get_submodule(name) for name in lm.anatomy.layers[:layer]]
        distinct = list(dict.fromkeys(tuple(encoding.ids) for encoding in encodings))
        self.place = {ids: at for at, ids in enumerate(distinct)}
        streams = torch.cat(list(self._streams(distinct, lm.anatomy.layers[layer - 1])))
        self.kept = KeptRows({"stream": streams}, [len(ids) for ids in distinct], memory)
        self.templates = _templates(lm)
        self.current: Tensor | None = None

    @torch.no_grad()
    def _streams(self, texts: Sequence[tuple[int, ...]], block: str) -> Iterator[Tensor]:
        encodings = [Encoding(list(ids), len(ids)) for ids in texts]
        for at in range(0, len(texts), BATCH):
            chosen = range(at, min(at + BATCH, len(texts)))
            rows = collate(encodings, chosen, "answer").to(self.lm.device)
            with capture(self.lm.model, [block]) as states:
                self.lm.model(input_ids=rows.ids, attention_mask=rows.attention, use_cache=False)
            for row, i in enumerate(chosen):
                yield states[block][row, : len(texts[i])].cpu()

    @contextmanager
    def skipped(self) -> Iterator[None]:
        """A block in which known texts start at the layer; a batch with an unknown one does not."""
        own = [block.forward for block in self.blocks]

        def stub(index: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if self.current is None:
                return own[index](*args, **kwargs)
            return replace_first(self.templates[index], self.current)

        handle = self.lm.model.register_forward_pre_hook(self._look_up, with_kwargs=True)
        try:
            with stubbed(self.blocks, stub):
                yield
        finally:
            handle.remove()
            self.current = None

    def _look_up(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids, mask = kwargs["input_ids"], kwargs["attention_mask"]
        lengths = mask.sum(1).tolist()
        texts = [tuple(row[:n]) for row, n in zip(ids.tolist(), lengths, strict=True)]
        places = [self.place.get(text) for text in texts]
        if None in places:
            self.current = None
            return
        streams = torch.split(self.kept.at("stream", [p for p in places if p is not None]), lengths)
        padded = torch.nn.utils.rnn.pad_sequence(list(streams), batch_first=True)
        wanted = ids.shape[1] - padded.shape[1]
        self.current = torch.nn.functional.pad(padded, (0, 0, 0, wanted)).to(ids.device)


def _templates(lm: LanguageModel) -> dict[int, Any]:
    """What each block puts out, in form: the stream itself, or something that begins with it."""
    one = torch.zeros(1, 1, dtype=torch.long, device=lm.device)
    with forward_only(lm.model), recorded(lm.model, lm.anatomy, ()) as run:
        Decoder(lm.model, lm.anatomy).forward(one)
    return run.templates
