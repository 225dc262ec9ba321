"""Adapter: a LoRA or (IA)3 beside the weights, merged into them when it is applied."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from unlearn.artifact import (
    Artifact,
    Provenance,
    check_base,
    filled,
    layout_of,
    tensors_of,
)
from unlearn.errors import ArtifactError, ModelError
from unlearn.model.quiet import quiet_import

if TYPE_CHECKING:
    from unlearn.model.language_model import LanguageModel

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"

KINDS = {"LORA": "LoraConfig", "IA3": "IA3Config"}
"""What can be merged: peft's name for it, and the class of its config."""

PLAIN_STARTS = (True, False, "gaussian", "orthogonal")
"""Values of ``init_lora_weights`` that leave the base as it is. Of the others most also change its
weights, so that their LoRA fits a base that nobody has."""


class Adapter(Artifact):
    """A LoRA (Hu et al. 2022) or (IA)3 (Liu et al. 2022) in peft's format: whole with its base.

    An artifact of this kind is also a peft adapter folder. ``apply`` merges in float32 or wider,
    W + scale B A or W with its rows or columns scaled, and rounds once to the type of W. Rounding
    may differ in the last bit between processors, so ``result_digest`` is that of the machine the
    artifact was made on, and others need not arrive at it.
    """

    kind = "adapter"
    threat_model = "weights"

    def __init__(
        self,
        config: Mapping[str, Any],
        tensors: Mapping[str, torch.Tensor],
        provenance: Provenance,
        forget_set_key: bytes | None = None,
    ) -> None:
        super().__init__(provenance, forget_set_key)
        self.config = dict(config)
        """What ``adapter_config.json`` holds."""
        self.tensors = dict(tensors)
        """What ``adapter_model.safetensors`` holds."""

    @classmethod
    def on(
        cls,
        model: LanguageModel,
        folder: str | Path,
        provenance: Provenance,
        *,
        forget_set_digest: str | None = None,
    ) -> Adapter:
        """The artifact of the adapter in a folder that peft's ``save_pretrained`` wrote.

        ``model`` is its base and stays as it is. Fills what ``FullWeights.between`` fills.

        Raises:
            ArtifactError: there is none, it is no LoRA or (IA)3, or it does not fit the model.
        """
        made = cls.read_payload(Path(folder), provenance, None)
        return made.made_on(model, provenance, forget_set_digest=forget_set_digest)

    def made_on(
        self,
        model: LanguageModel,
        provenance: Provenance,
        *,
        forget_set_digest: str | None = None,
    ) -> Adapter:
        """The same adapter as the artifact of a run on ``model``; see ``on``."""
        known = filled(provenance, model, self.merged(model), forget_set_digest)
        return Adapter(self.config, self.tensors, *known)

    def apply(self, model: LanguageModel) -> LanguageModel:
        """A copy of ``model`` with the adapter merged into its weights; see ``Artifact.apply``."""
        check_base(model, self.provenance.base_digest)
        return self.merged(model)

    def revert(self, model: LanguageModel) -> LanguageModel:
        """The base, loaded from where it came from; see ``Artifact.revert``.

        A merge cannot be subtracted bit for bit, because it rounded, and an adapter keeps no copy
        of its base. So the base is read again, and given back if its digest is the one noted and
        the adapter turns it into ``model``.

        Raises:
            ArtifactError: it is not there any more, or ``model`` did not come from it.
        """
        from unlearn.model.language_model import LanguageModel

        source, dtype = self.provenance.base_source, str(model.dtype).removeprefix("torch.")
        base, why = None, "it was never on disk"
        if source not in ("", "memory"):
            try:
                base = LanguageModel.load(source, device=str(model.device), dtype=dtype)
            except ModelError as error:
                why = str(error)
        if base is None:
            raise ArtifactError(
                f"an adapter keeps no copy of its base, and {source or 'its source'!r} cannot be "
                f"loaded again ({why}); take the model from before instead"
            )
        if self.apply(base).digest != model.digest:
            raise ArtifactError(
                f"{model.source} with digest {model.digest[:12]} is not what this adapter makes of "
                f"{source}; give the model that apply gave. If a later artifact lies on it, take "
                "that one back first, or leave this one out (`unlearn apply --without`)"
            )
        return base

    def without(self, earlier: Artifact, model: LanguageModel) -> Adapter:
        """This LoRA as an artifact of ``model``, which was before ``earlier``.

        This one was made on what ``earlier`` gave. What a LoRA adds to a weight does not depend on
        the weight, so ``W + earlier + this`` becomes ``W + this``; whether that still forgets is
        for an audit to say.

        Raises:
            ArtifactError: this is no LoRA, was not made on what ``earlier`` gave, or that was not
                made on ``model``.
        """
        if self.config["peft_type"] != "LORA":
            raise ArtifactError(
                "an (IA)3 multiplies the weights it finds, so it cannot be had without what lies "
                "beneath it; forget its set again on the model from before"
            )
        if self.provenance.base_digest != earlier.provenance.result_digest:
            raise ArtifactError(
                f"the artifact that is to be left out gave model "
                f"{earlier.provenance.result_digest[:12]}, and this one was made on "
                f"{self.provenance.base_digest[:12]}; leave out the one right beneath it"
            )
        check_base(model, earlier.provenance.base_digest)
        facts = {
            "base_source": model.source,
            "base_digest": model.digest,
            "result_digest": self.merged(model).digest,
            "beneath": earlier.provenance.beneath,
        }
        known = self.provenance.model_copy(update=facts)
        return Adapter(self.config, self.tensors, known, self.forget_set_key)

    def write_payload(self, folder: Path) -> None:
        """Writes ``adapter_config.json`` and ``adapter_model.safetensors``, as peft does."""
        text = json.dumps(self.config, ensure_ascii=False, indent=2, sort_keys=True) + "\n"
        (folder / CONFIG).write_text(text, encoding="utf-8")
        tensors = {name: self.tensors[name].cpu().contiguous() for name in sorted(self.tensors)}
        save_file(tensors, folder / WEIGHTS)

    @classmethod
    def read_payload(
        cls, folder: Path, provenance: Provenance, forget_set_key: bytes | None
    ) -> Adapter:
        """The adapter whose files lie in ``folder``."""
        try:
            config = json.loads((folder / CONFIG).read_bytes())
            tensors = load_file(folder / WEIGHTS)
        except (OSError, ValueError, SafetensorError) as error:
            raise ArtifactError(
                f"{folder} does not read as a peft adapter in safetensors format: {error}"
            ) from None
        if not isinstance(config, dict) or config.get("peft_type") not in KINDS:
            raise ArtifactError(
                f"{folder / CONFIG} is not that of a LoRA or (IA)3; no other kind is merged"
            )
        return cls(config, tensors, provenance, forget_set_key)

    def merged(self, model: LanguageModel) -> LanguageModel:
        """A copy of any model that the adapter fits, with it merged in.

        Raises:
            ArtifactError: it does not fit.
        """
        copy = model.copy()
        layout = layout_of(tensors_of(model))
        trained = {name: p.requires_grad for name, p in copy.model.named_parameters()}
        try:
            # Peft says in warnings what is checked here, and what concerns training alone.
            with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
                warnings.simplefilter("ignore")
                narrow = _widen(copy)
                copy.model = self._attached(copy).merge_and_unload(safe_merge=True).eval()
        except (ValueError, TypeError, KeyError, NotImplementedError, RuntimeError) as error:
            # The rest of such messages lists all modules of the model.
            reason = str(error).partition("\n")[0].partition(". ")[0]
            raise ArtifactError(
                f"the adapter does not merge into {model.source}: {reason}"
            ) from error
        for name, tensor in copy.model.named_parameters():
            tensor.data = tensor.data.to(narrow.get(name, tensor.dtype))
        copy.__dict__.pop("anatomy", None)
        copy.changed()
        if layout_of(tensors_of(copy)) != layout:
            raise ArtifactError(
                f"merged into {model.source}, the adapter changes more than the values of its "
                "tensors (their names, types, shapes or ties); no plain model folder could hold it"
            )
        for name, parameter in copy.model.named_parameters():
            parameter.requires_grad_(trained[name])
        return copy

    def _attached(self, copy: LanguageModel) -> Any:
        """The model with the adapter beside its weights, every tensor of the adapter in place."""
        with quiet_import():
            import peft

        kind = getattr(peft, KINDS[self.config["peft_type"]])
        known = kind.__dataclass_fields__
        unknown = sorted(key for key, value in self.config.items() if key not in known and value)
        start = self.config.get("init_lora_weights", True)
        if unknown or start not in PLAIN_STARTS:
            what = f"sets {unknown[0]!r}" if unknown else f"was started with {start!r}"
            raise ArtifactError(
                f"the adapter {what}, which cannot be merged faithfully here; convert it to a "
                "plain LoRA with peft first"
            )
        with TemporaryDirectory() as folder:
            path = Path(folder) / CONFIG
            path.write_text(json.dumps(self.config), encoding="utf-8")
            config = kind.from_pretrained(folder)
        if hasattr(config, "init_lora_weights"):
            config.init_lora_weights = True
        attached = peft.get_peft_model(copy.model, config, low_cpu_mem_usage=True)
        _refuse_ties(attached, copy)
        report: Any = peft.set_peft_model_state_dict(attached, self.tensors, low_cpu_mem_usage=True)
        lacking = sorted(name for name, p in attached.named_parameters() if p.is_meta)
        strangers = sorted(report.unexpected_keys)
        if lacking or strangers:
            what = f"lacks {lacking[0]}" if lacking else f"holds {strangers[0]}, which fits nothing"
            raise ArtifactError(f"{WEIGHTS} {what}; it does not belong to its {CONFIG}")
        return attached


def _widen(copy: LanguageModel) -> dict[str, torch.dtype]:
    """Narrow parameters to float32, and the types they had.

    Peft would round A, B and their product to the type of the base before it adds.
    """
    narrow = {}
    for name, tensor in copy.model.named_parameters():
        if tensor.is_floating_point() and tensor.dtype.itemsize < torch.float32.itemsize:
            narrow[name] = tensor.dtype
            tensor.data = tensor.data.float()
    return narrow


def _refuse_ties(attached: Any, copy: LanguageModel) -> None:
    """An error where the adapter is beside a weight that another module shares.

    Merging there would change both modules, and the adapter changes what one of them does.
    """
    owners: dict[int, int] = {}
    named = dict(attached.named_modules(remove_duplicate=False))
    for module in named.values():
        for parameter in module.parameters(recurse=False):
            owners[parameter.data_ptr()] = owners.get(parameter.data_ptr(), 0) + 1
    for name in attached.base_model.targeted_module_names:
        weight = getattr(attached.base_model.model.get_submodule(name), "weight", None)
        if weight is not None and owners.get(weight.data_ptr(), 0) > 1:
            raise ArtifactError(
                f"the adapter acts on {name}, whose weight another module of {copy.source} shares; "
                "merged, it would change both. Train it on other modules"
            )
