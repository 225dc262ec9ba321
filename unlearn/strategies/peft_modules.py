"""Adapters beside the weights of a model: where they fit, how they are attached, how they read."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from unlearn.adapter import CONFIG, Adapter
from unlearn.artifact import Artifact
from unlearn.errors import ArtifactError, InputError, UnsupportedError
from unlearn.model.language_model import LanguageModel
from unlearn.model.quiet import quiet_import
from unlearn.strategies.adapter_arithmetic import refuse_unfaithful
from unlearn.strategies.sites import find_scope
from unlearn.types import Sites


def linear_modules(model: LanguageModel, sites: Sites | None) -> tuple[str, ...]:
    """The linear modules of the blocks that an adapter may sit on.

    Raises:
        UnsupportedError: one of the sites, or the whole model, holds none.
    """
    scope = find_scope(model, sites)
    inside = tuple(f"{layer}." for layer in model.anatomy.layers)
    found = tuple(
        name
        for name, module in model.model.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
        and name.startswith(inside)
        and f"{name}.weight" in scope.trainable
    )
    weights = {f"{name}.weight" for name in found}
    empty = [site.name for site in scope.declared if not weights & set(site.parameters)]
    if empty or not found:
        raise UnsupportedError(
            f"{', '.join(empty) or model.source} holds no linear module of a block, and adapters "
            "sit on nothing else; name the attention or the MLP of a block"
        )
    return found


def attach(model: LanguageModel, config: Any, name: str, seed: int) -> Any:
    """The ``PeftModel`` around ``model``, whose modules it wraps where they are.

    Only the adapter requires a gradient. It starts as nothing, its A at random from ``seed``.

    Raises:
        UnsupportedError: peft refuses an architecture, or one of the modules.
    """
    with quiet_import():
        from peft import get_peft_model
    with unheard(), torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            network = get_peft_model(model.model, config, adapter_name=name)
        except ValueError as error:
            reason = str(error).partition("\n")[0]
            raise UnsupportedError(f"peft has no adapter for {model.source}: {reason}") from error
    network.eval()
    return network


def lora_config(model: LanguageModel, modules: tuple[str, ...], rank: int, alpha: int) -> Any:
    """Of a plain LoRA without dropout on these modules."""
    with quiet_import():
        from peft import LoraConfig
    return LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=0.0,
        target_modules=list(modules),
        fan_in_fan_out=_stored_transposed(model, modules),
        task_type="CAUSAL_LM",
    )


def scales_config(model: LanguageModel, modules: tuple[str, ...]) -> Any:
    """Of (IA)3 on these modules: it scales what they give, of down-projections what they take."""
    with quiet_import():
        from peft import IA3Config
    down = set(model.anatomy.down_projection)
    return IA3Config(
        target_modules=list(modules),
        feedforward_modules=[module for module in modules if module in down],
        fan_in_fan_out=_stored_transposed(model, modules),
        task_type="CAUSAL_LM",
    )


def _stored_transposed(model: LanguageModel, modules: tuple[str, ...]) -> bool:
    return all(isinstance(model.model.get_submodule(name), Conv1D) for name in modules)


def read_lora(folder: Path) -> Adapter:
    """The LoRA in a folder: an artifact, every file checked, or what peft's own saving left.

    Raises:
        ArtifactError: there is none that reads.
        InputError: the folder is an artifact of another kind.
        UnsupportedError: it is an adapter that peft does not add faithfully.
    """
    from unlearn.artifact import Provenance
    from unlearn.artifact_manifest import MANIFEST

    if (folder / MANIFEST).exists():
        found = Artifact.load(folder)
        if not isinstance(found, Adapter):
            raise InputError(
                f"{folder} is an artifact of the kind {found.kind!r}; only adapters are added"
            )
    else:
        found = Adapter.read_payload(folder, Provenance(strategy=""), None)
    refuse_unfaithful(config_of(found), str(folder))
    return found


def read_earlier(folder: Path, model: LanguageModel) -> Adapter:
    """The adapter of an earlier request, made on this very model.

    Raises:
        ArtifactError: there is none, or it was made on another model.
    """
    adapter = read_lora(folder)
    if adapter.provenance.base_digest != model.digest:
        raise ArtifactError(
            f"{folder} was not made on {model.source}: adapters only add up on one base; give the "
            "model that all of them were made on"
        )
    return adapter


def config_of(adapter: Adapter) -> Any:
    """The config of an adapter as peft has it."""
    with quiet_import(), unheard():
        from peft import PeftConfig

        with TemporaryDirectory() as folder:
            (Path(folder) / CONFIG).write_text(json.dumps(adapter.config), encoding="utf-8")
            return PeftConfig.from_pretrained(folder)


def begin(network: Any, config: Any, name: str, seed: int) -> None:
    """Adds an adapter that starts as nothing, its A at random from ``seed``."""
    with unheard(), torch.random.fork_rng():
        torch.manual_seed(seed)
        network.add_adapter(name, config)


def load(network: Any, adapter: Adapter, name: str) -> None:
    """Puts a LoRA that was read beside the others, or in place of ``name``, in float32.

    Raises:
        ArtifactError: it does not fit the model.
    """
    with quiet_import():
        from peft import set_peft_model_state_dict
    try:
        if name not in network.peft_config:
            begin(network, config_of(adapter), name, seed=0)
        tensors = {key: tensor.float() for key, tensor in adapter.tensors.items()}
        report: Any = set_peft_model_state_dict(network, tensors, adapter_name=name)
    except (ValueError, RuntimeError) as error:
        reason = str(error).partition("\n")[0].partition(". ")[0]
        raise ArtifactError(f"the adapter does not fit this model: {reason}") from error
    if report.unexpected_keys:
        raise ArtifactError(f"the adapter holds {report.unexpected_keys[0]}, which fits nothing")


def put(network: Any, config: Any, name: str, factors: Mapping[str, tuple[Tensor, Tensor]]) -> None:
    """Adds a LoRA whose factors ``A, B`` of each module are given."""
    begin(network, config, name, seed=0)
    with torch.no_grad():
        for module, (down, up) in factors.items():
            layer = network.base_model.model.get_submodule(module)
            layer.lora_A[name].weight.copy_(down)
            layer.lora_B[name].weight.copy_(up)


@contextmanager
def saved(network: Any, name: str) -> Iterator[Path]:
    """A folder with one of the adapters in peft's format, there until the block ends."""
    with TemporaryDirectory() as folder:
        with unheard():
            network.save_pretrained(folder, selected_adapters=[name])
        path = Path(folder) / name
        file = path / CONFIG
        config = json.loads(file.read_text(encoding="utf-8"))
        # Sets have no order, and two runs should write the same bytes.
        ordered = {k: sorted(v) if isinstance(v, list) else v for k, v in config.items()}
        file.write_text(json.dumps(ordered | {"base_model_name_or_path": None}), encoding="utf-8")
        yield path


@contextmanager
def unheard() -> Iterator[None]:
    """No warning is shown until the block ends: peft warns of what is checked here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
