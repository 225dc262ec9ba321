"""Row by row against the formula, and factors against the singular values."""

import pytest
import torch

from unlearn.strategies.unshared import factored, unshared


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_each_row_loses_its_part_along_the_direction_half_way_between() -> None:
    expert = torch.tensor([[2.0, 0.0], [0.0, 3.0], [1.0, 1.0]])
    anti = torch.tensor([[0.0, 5.0], [0.0, 7.0], [-1.0, -1.0]])
    found = unshared(expert, anti)
    # Half-way between the axes lies (1, 1)/sqrt 2; the second row is shared whole; of opposite
    # rows nothing is.
    wanted = torch.tensor([[-2.5, 2.5], [0.0, 0.0], [-1.0, -1.0]], dtype=torch.float64)
    torch.testing.assert_close(found, wanted)


def test_a_matrix_that_is_not_square_is_treated_row_by_row() -> None:
    expert, anti = random(7, 3), random(7, 3, seed=1)
    found = unshared(expert, anti)
    for plus, minus, row in zip(expert, anti, found, strict=True):
        common = plus / plus.norm() + minus / minus.norm()
        common = common / common.norm()
        torch.testing.assert_close(row, minus - (minus @ common) * common)
        assert row @ common == pytest.approx(0, abs=1e-12)


def test_rows_of_zeros_share_nothing_and_give_no_nan() -> None:
    expert, anti = random(3, 4), random(3, 4, seed=1)
    expert[0], anti[1] = 0, 0
    found = unshared(expert, anti)
    assert torch.equal(found[0], anti[0])
    assert torch.equal(found[1], torch.zeros(4, dtype=torch.float64))
    assert found.isfinite().all()


def test_how_the_expert_is_scaled_does_not_matter_row_by_row() -> None:
    expert, anti = random(5, 6), random(5, 6, seed=1)
    torch.testing.assert_close(unshared(expert, anti), unshared(9 * expert, anti))
    torch.testing.assert_close(2 * unshared(expert, anti), unshared(expert, 2 * anti))


def test_the_result_has_at_most_the_sum_of_the_ranks() -> None:
    expert = random(20, 3) @ random(3, 12, seed=2)
    anti = random(20, 2, seed=3) @ random(2, 12, seed=4)
    values = torch.linalg.svdvals(unshared(expert, anti))
    assert values[5] < 1e-12 * values[0] < values[4]


def test_factors_of_enough_rank_are_exact_and_fewer_lose_the_smallest_values() -> None:
    matrices = {"a": random(6, 4) @ random(4, 9, seed=1), "b": random(3, 5, seed=2)}
    whole = factored(matrices, 4)
    assert whole.error < 1e-12
    for module, (down, up) in whole.factors.items():
        assert (down.shape[0], up.shape[1]) == (4, 4)
        torch.testing.assert_close((up @ down).double(), matrices[module], rtol=1e-4, atol=1e-5)
    cut = factored(matrices, 2)
    lost = sum(float((m - u @ d).square().sum()) for m, (d, u) in _pairs(matrices, cut))
    total = sum(float(m.square().sum()) for m in matrices.values())
    assert cut.error == pytest.approx((lost / total) ** 0.5, rel=1e-4)
    assert cut.error > 0.1


def test_nothing_is_factored_without_an_error() -> None:
    assert factored({"a": torch.zeros(2, 3)}, 1).error == 0.0


def _pairs(matrices, cut):  # type: ignore[no-untyped-def]
    return [(matrices[module], cut.factors[module]) for module in matrices]
