"""What is linear in n and m, before and after the walks: rows of unit length, and what a kept gradient becomes.

On the CPU each is one operator, for torch's operations take longer than the walk of a small batch; on a GPU these.
"""

import torch
from torch import Tensor

from .autograd import Operator, cast
from .indexing import rows_at, summed_at, within

_raw = torch.ops.mi_ext
_SHORTEST = 1e-12  # ε: a length is at least this


def unit_rows(z: Tensor) -> Tensor:
    """z/r with r = max(|z|, ε) along the last dimension, as F.normalize; float32 or float64."""
    return _UnitRows.apply(z)[0]


def kept_gradient(x, y, scale, target, dx, dy, grad_loss, grad_positive):
    """(dx, dy) of f(loss, positives) from those that came with the loss, in the dtypes of x and y.

    With p_i = scale <x_i, y_target_i>: dx_i = grad_loss dx_i + grad_positive_i scale y_target_i, dy alike. Rounded to
    16 bits once. What nobody asked for is None.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    sides = cast(x, wide), cast(y, wide), scale, target
    gradients = _raw.kept_gradient(*sides, dx, dy, grad_loss, grad_positive)
    return tuple(cast(g, t.dtype) if g.shape == t.shape else None for g, t in zip(gradients, (x, y), strict=True))


class _UnitRows(Operator):
    """Outputs (u, r): u = z/r."""

    @staticmethod
    def forward(z: Tensor) -> tuple[Tensor, Tensor]:
        return _raw.unit_rows(z, _SHORTEST)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.save_for_backward(*output)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, upstream: Tensor | None, grad_length: Tensor | None) -> Tensor:
        unit, length = ctx.saved_tensors
        if torch.is_grad_enabled() or upstream is None or grad_length is not None:  # the gradient of a gradient
            return _unit_rows_gradient(unit, length, upstream, _SHORTEST, grad_length)
        return _raw.unit_rows_gradient(unit, length, upstream, _SHORTEST)


def _unit_rows_gradient(unit, length, upstream, shortest: float, grad_length=None) -> Tensor:
    """(du − u <u, du> [r > ε])/r + u dr [r > ε]."""
    upstream = torch.zeros_like(unit) if upstream is None else upstream
    projection = (unit * upstream).sum(-1, keepdim=True)
    if grad_length is not None:
        projection = projection - length * grad_length
    projection = torch.ops.aten.threshold_backward(projection, length, shortest)  # 0 where r is ε whatever z is
    return torch.addcmul(upstream, unit, projection, value=-1) / length


def _unit_rows(z, shortest: float):
    length = torch.linalg.vector_norm(z, dim=-1, keepdim=True).clamp_min(shortest)
    return z / length, length


def _kept_gradient(x, y, scale, target, dx, dy, grad_loss, grad_positive):
    weight = (grad_positive * scale).to(x.dtype)[:, None]
    dx_total, dy_total = dx * grad_loss, dy * grad_loss
    if dx.shape == x.shape:
        dx_total.addcmul_(weight, rows_at(y, target))
    if dy.shape == y.shape:
        dy_total += summed_at(y.shape[0], within(target, y.shape[0]), weight * x)
    return dx_total, dy_total


torch.library.impl("mi_ext::unit_rows", "cuda", _unit_rows)
torch.library.impl("mi_ext::unit_rows_gradient", "cuda", _unit_rows_gradient)
torch.library.impl("mi_ext::kept_gradient", "cuda", _kept_gradient)
