"""Rows and sums by index, as on a GPU, where an index out of range is not refused."""

import pytest
import torch

from mi_ext.ops import indexing, linear


@pytest.fixture
def unchecked(monkeypatch):
    monkeypatch.setattr(indexing, "checked", lambda target: False)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_rows_outside_are_nan(unchecked):
    y, target = normal(5, 3).requires_grad_(), torch.tensor([4, -1, 0, 5, 4])
    rows = indexing.rows_at(y, target)
    assert rows.isnan().any(1).tolist() == [False, True, False, True, False]
    assert torch.equal(rows[[0, 2, 4]], y[[4, 0, 4]])
    (gradient,) = torch.autograd.grad(rows[[0, 2, 4]].sum(), y)
    assert torch.equal(gradient, torch.tensor([1.0, 0, 0, 0, 2]).double()[:, None].expand(5, 3))


def test_sums_by_index():
    rows, index = normal(7, 3), torch.tensor([2, 0, 2, 2, 5, 0, 2])
    assert torch.allclose(indexing.summed_at(6, index, rows), torch.zeros(6, 3).double().index_add(0, index, rows))
    assert torch.equal(indexing.summed_at(6, index, torch.ones_like(index)), index.bincount(minlength=6))


@pytest.mark.parametrize("sides", ["both", "x", "y"])
def test_kept_gradient_as_on_a_gpu(unchecked, sides):
    """The same numbers as the operator on the CPU; NaN only where a target is out of range."""
    x, y, dx, dy = normal(6, 3), normal(9, 3, seed=1), normal(6, 3, seed=2), normal(9, 3, seed=3)
    dx, dy = (d if sides in ("both", side) else d.new_empty(0) for d, side in ((dx, "x"), (dy, "y")))
    scale, upstream, positive = torch.tensor(1.3).double(), torch.tensor(0.7).double(), normal(6, seed=4)
    target = torch.tensor([8, 2, 2, 0, 5, 2])
    arguments = x, y, scale, target, dx, dy, upstream, positive
    expected = torch.ops.mi_ext.kept_gradient(*(t.clone() for t in arguments))
    for ours, theirs in zip(linear._kept_gradient(*arguments), expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    outside = target.clone()
    outside[3] = 9
    of_queries = linear._kept_gradient(x, y, scale, outside, dx, dy, upstream, positive)[0]
    assert of_queries.isnan().nonzero()[:, 0].unique().tolist() == ([] if sides == "y" else [3])
