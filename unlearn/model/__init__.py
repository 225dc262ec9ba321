"""Models: loading, anatomy, hooks and every forward pass that audits make."""

from unlearn.model.quiet import quiet_import

with quiet_import():
    # The first model class brings torchao along, which tells of kernels for other machines.
    from transformers import PreTrainedModel as _  # noqa: F401
