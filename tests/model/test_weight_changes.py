"""Weight changes against norms worked out by hand."""

import pytest
import torch

from unlearn.errors import UnsupportedError
from unlearn.model.weight_changes import touched_layers, weight_changes


def test_nothing_differs_between_a_model_and_its_copy(language_model):
    lm = language_model("llama")
    assert weight_changes(lm, lm.copy()) == ()


def test_each_changed_tensor_is_told_with_its_block_and_how_far_it_moved(language_model):
    lm = language_model("llama")
    after = lm.copy()
    down = "model.layers.1.mlp.down_proj.weight"
    with torch.no_grad():
        weights = after.model.get_parameter(down)
        weights[0, :3] += torch.tensor([3.0, 0.0, 4.0])
        after.model.model.norm.weight.mul_(1.5)
    changes = {change.name: change for change in weight_changes(lm, after)}
    assert set(changes) == {down, "model.norm.weight"}
    moved, norm = changes[down], float(lm.model.state_dict()[down].norm())
    assert moved.layer == 1 and changes["model.norm.weight"].layer is None
    assert moved.distance == pytest.approx(5.0, rel=1e-5)
    assert moved.relative == pytest.approx(5.0 / norm)
    assert moved.share == 2 / weights.numel()
    assert changes["model.norm.weight"].relative == pytest.approx(0.5)
    assert touched_layers(tuple(changes.values())) == (1,)


def test_models_of_another_shape_are_refused_by_name(language_model):
    with pytest.raises(UnsupportedError, match=r"'model\.layers\.2\."):
        weight_changes(language_model("llama"), language_model("llama", num_hidden_layers=3))
