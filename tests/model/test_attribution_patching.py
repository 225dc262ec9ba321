"""Attribution patching: slopes are those that plain hooks give, and only then called estimates."""

import pytest
import torch
from test_tracing import all_cells, last_logit, pairs, sharpen
from tracing_oracle import Oracle

from unlearn.errors import NumericalError
from unlearn.model.anatomy import find_anatomy
from unlearn.model.attribution import Attributor
from unlearn.model.tracing import Cell, Readout, Tracer

STEP = 0.02
"""Of the way to the clean state: norms work in float32 anyway, so a smaller one drowns."""


class Nudge(Oracle):
    """Restores only a share of what is to be restored, so that a slope can be taken."""

    share = 1.0

    def setting(self, source, name, token):
        whole, rows, length = super().setting(source, name, token), *self.corrupted_ids.shape

        def function(out):
            new, old = whole(out).reshape(rows, length, -1), out.reshape(rows, length, -1)
            return (old + self.share * (new - old)).reshape(out.shape)

        return function

    def slope(self, words):
        scores = []
        for self.share in (STEP, -STEP):
            scores.append(float(last_logit(self.restored(**words)).mean()))
        return (scores[0] - scores[1]) / (2 * STEP)


@pytest.fixture
def animal(specimen, build):
    return sharpen(build(specimen.name))


def single_cells(tracer, tokens):
    for cell, words in all_cells(tracer, tokens):
        alone = cell.part is None or (cell.clean and cell.last == cell.first + 1)
        if alone:
            yield cell, words


def test_estimates_are_the_slopes_of_plain_hooks_in_every_architecture(animal):
    anatomy = find_anatomy(animal.model)
    n_tokens = animal.ids.shape[1]
    for pair in pairs(animal):
        attributor = Attributor(animal.model, anatomy, max_rows=2)
        cells, asked = zip(*single_cells(attributor.tracer, (2, 4, 8)), strict=True)
        found = attributor.trace(pair, cells, Readout((n_tokens - 1,), last_logit))
        nudge = Nudge(animal.model, anatomy, pair.clean, pair.corrupted, pair.noise)
        # The logit may be next to 0, where float32 leaves no four digits.
        clean = float(last_logit(nudge.clean_logits))
        assert found.clean == pytest.approx(clean, rel=1e-4, abs=1e-6)
        expected = torch.tensor([nudge.slope(words) for words in asked])
        effects = torch.tensor(found.cells) - found.corrupted
        assert expected.abs().max() > 1e-3
        assert effects.tolist() == pytest.approx(
            expected.tolist(), abs=0.02 * float(expected.abs().max())
        )


@pytest.fixture
def llama(build):
    return sharpen(build("llama"))


def setup(specimen, **options):
    pair, _ = pairs(specimen)
    attributor = Attributor(specimen.model, find_anatomy(specimen.model), **options)
    cells, _ = zip(*single_cells(attributor.tracer, range(9)), strict=True)
    return attributor, pair, cells, Readout((8,), last_logit)


def test_refined_cells_are_those_with_the_largest_estimates_and_are_exact(llama):
    attributor, pair, cells, readout = setup(llama)
    rough = attributor.trace(pair, cells, readout)
    fine = setup(llama, refine=5)[0].trace(pair, cells, readout)
    exact = Tracer(llama.model, find_anatomy(llama.model)).trace(pair, cells, readout)
    sizes = [abs(score - rough.corrupted) for score in rough.cells]
    largest = sorted(range(len(cells)), key=lambda index: -sizes[index])[:5]
    assert rough.refined == () and fine.refined == tuple(sorted(largest))
    for index, score in enumerate(fine.cells):
        source = exact if index in fine.refined else rough
        assert score == pytest.approx(source.cells[index], abs=1e-5)
    assert any(abs(exact.cells[i] - rough.cells[i]) > 1e-3 for i in largest)


def test_a_window_is_the_sum_of_its_members(llama):
    attributor, pair, _, readout = setup(llama)
    singles = [Cell.window(4, "mlp", range(layer, layer + 1)) for layer in range(2)]
    found = attributor.trace(pair, [*singles, Cell.window(4, "mlp", range(2))], readout)
    effects = [score - found.corrupted for score in found.cells]
    assert effects[2] == pytest.approx(effects[0] + effects[1], abs=1e-6)


def test_the_model_is_as_it_was_also_after_an_error(llama):
    network = llama.model
    network.train()
    next(network.parameters()).requires_grad_(False)
    flags = [p.requires_grad for p in network.parameters()]
    weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    attributor, pair, cells, readout = setup(llama)

    def broken(logits):
        if logits.requires_grad:
            raise KeyError("scored")
        return last_logit(logits)

    attributor.trace(pair, cells, readout)
    with pytest.raises(KeyError, match="scored"):
        attributor.trace(pair, cells, Readout((8,), broken))
    assert [p.requires_grad for p in network.parameters()] == flags
    assert all(module.training for module in network.modules())
    assert all(p.grad is None for p in network.parameters())
    assert all(torch.equal(weights[n], t) for n, t in network.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


def test_logits_that_are_not_finite_are_an_error(llama):
    attributor, pair, cells, _ = setup(llama)
    with pytest.raises(NumericalError, match="float32"):
        attributor.trace(pair, cells, Readout((8,), lambda x: last_logit(x) * torch.nan))
