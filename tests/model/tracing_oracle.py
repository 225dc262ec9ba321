"""Causal tracing the obvious way: a whole forward pass with plain hooks for every cell.

It shares no code with the engine beyond the names of the parts, so the engine is judged by it.
"""

from __future__ import annotations

import inspect
from contextlib import ExitStack, contextmanager

import torch


class Oracle:
    """Runs one prompt clean and corrupted, and corrupted with something restored."""

    def __init__(self, model, anatomy, clean, corrupted, noise=None):
        self.model, self.anatomy = model, anatomy
        self.clean_ids, self.corrupted_ids, self.noise = clean, corrupted, noise
        self.calls = 0
        with self.recording() as self.clean:
            self.clean_logits = self.forward(clean[None])
        with self.recording() as self.corrupted, self.corruption():
            self.corrupted_logits = self.forward(corrupted)

    def forward(self, ids):
        """Logits (row, token, vocabulary)."""
        self.calls += 1
        with torch.no_grad():
            return self.model(input_ids=ids, use_cache=False).logits

    def part(self, part, layer):
        if part == "mlp":
            return self.anatomy.mlp_contribution(layer)
        return self.anatomy.attention[layer]

    @contextmanager
    def hooked(self, hooks):
        """``hooks``: name to a function from (contribution) to its replacement or None."""
        with ExitStack() as stack:
            for name, function in hooks.items():
                module = self.model.get_submodule(name)
                hook = self._hook(module, name in self.anatomy.adds_residual, function)
                stack.callback(module.register_forward_hook(hook, with_kwargs=True).remove)
            yield

    def _hook(self, module, adds_residual, function):
        def run(_, args, kwargs, output):
            out = output if isinstance(output, torch.Tensor) else output[0]
            residual = 0
            if adds_residual:
                residual = inspect.signature(module.forward).bind(*args, **kwargs)
                residual = residual.arguments["residual"]
            new = function(out - residual)
            if new is None:
                return None
            new = new + residual
            if isinstance(output, torch.Tensor):
                return new
            return type(output)([new, *output[1:]])

        return run

    def recording(self):
        names = [*self.anatomy.layers]
        for layer in range(self.anatomy.n_layers):
            names += [name for p in ("mlp", "attention") if (name := self.part(p, layer))]
        seen = {}

        @contextmanager
        def block():
            def keep(name):
                return lambda out: seen.__setitem__(name, out.clone())

            with self.hooked({name: keep(name) for name in names}):
                yield seen

        return block()

    @contextmanager
    def corruption(self):
        if self.noise is None:
            yield
            return
        module = self.model.get_submodule(self.anatomy.embedding)
        handle = module.register_forward_hook(lambda m, a, out: out + self.noise)
        try:
            yield
        finally:
            handle.remove()

    def setting(self, source, name, token):
        """A function that puts ``source``'s value of ``name`` at ``token`` into an output."""
        rows, length = self.corrupted_ids.shape

        def function(out):
            new = out.clone().reshape(rows, length, -1)
            value = source[name]
            value = value.reshape(-1, length, value.shape[-1])[:, token]
            new[:, token] = value
            return new.reshape(out.shape)

        return function

    def restored(self, token, *, state=None, part=None, layers=(), severed=None):
        """Logits of a corrupted run in which something at ``token`` is clean again."""
        hooks = {}
        for layer in layers:
            name = self.part(part, layer)
            if name is not None:
                hooks[name] = self.setting(self.clean, name, token)
        if severed is not None:
            for layer in range(self.anatomy.n_layers):
                name = self.part(severed, layer)
                if name is not None:
                    hooks[name] = self.setting(self.corrupted, name, token)
        if state is not None:
            name = self.anatomy.layers[state]
            hooks[name] = self.setting(self.clean, name, token)
        with self.corruption(), self.hooked(hooks):
            return self.forward(self.corrupted_ids)
