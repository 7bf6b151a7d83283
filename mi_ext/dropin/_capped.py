"""Cross-entropies of capped logits κ tanh((<x_i, c_v> + b_v)/κ), in blocks of rows, again in the backward pass."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..ops.autograd import Operator, first_derivative_only

_BLOCK_ENTRIES = 1 << 22  # c is read anew for every block


def capped_cross_entropy(x: Tensor, c: Tensor, bias: Tensor | None, target: Tensor, cap: float) -> Tensor:
    """[2, n] in at least float32: cross-entropies and log-partitions, differentiable in x [n, d], c [V, d], bias."""
    return _Capped.apply(x, c, bias, target, float(cap))


@torch.library.custom_op("mi_ext::capped_cross_entropy", mutates_args=())
def _value(x: Tensor, c: Tensor, bias: Tensor | None, target: Tensor, cap: float) -> Tensor:
    out = x.new_empty(2, len(x), dtype=_wide(x, c))
    with torch.autocast(x.device.type, enabled=False):
        for rows, tanh in _blocks(x, c.to(out.dtype), bias, cap):
            logits, own = tanh.mul_(cap), target[rows, None]
            loss = -F.log_softmax(logits, 1).gather(1, own)[:, 0]
            out[:, rows] = torch.stack([loss, loss + logits.gather(1, own)[:, 0]])
    return out


@_value.register_fake
def _(x: Tensor, c: Tensor, bias: Tensor | None, target: Tensor, cap: float) -> Tensor:
    return x.new_empty(2, x.shape[0], dtype=_wide(x, c))


@torch.library.custom_op("mi_ext::capped_cross_entropy_gradient", mutates_args=())
def _gradient(
    x: Tensor, c: Tensor, bias: Tensor | None, target: Tensor, cap: float, upstream: Tensor, wanted: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """dL/ds_iv = (1 − tanh²) [(g_i + h_i) softmax(z_i)_v − g_i [v = target_i]], g and h the rows of `upstream`.

    Gradients of x, c and bias, those that are `wanted` and empty tensors for others, in the dtypes of their inputs.
    """
    dx, dc, dbias = _empty_gradients(x, c, bias, wanted)
    wide = c.to(_wide(x, c))
    c_sum, bias_sum = (torch.zeros_like(t, dtype=wide.dtype) for t in (dc, dbias))
    of_loss, of_both = upstream[0, :, None], upstream.sum(0)[:, None]
    with torch.autocast(x.device.type, enabled=False):
        for rows, tanh in _blocks(x, wide, bias, cap):
            weight = (tanh * cap).softmax(1).mul_(of_both[rows])
            weight.scatter_add_(1, target[rows, None], -of_loss[rows])
            weight.addcmul_(weight * tanh, tanh, value=-1)
            if wanted[0]:
                dx[rows] = weight @ wide
            if wanted[1]:
                c_sum.addmm_(weight.T, x[rows].to(wide.dtype))
            if wanted[2]:
                bias_sum += weight.sum(0)
    return dx, c_sum.to(dc.dtype), bias_sum.to(dbias.dtype)


@_gradient.register_fake
def _(
    x: Tensor, c: Tensor, bias: Tensor | None, target: Tensor, cap: float, upstream: Tensor, wanted: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    return _empty_gradients(x, c, bias, wanted)


class _Capped(Operator):
    raw = "capped_cross_entropy"

    @staticmethod
    def forward(x: Tensor, c: Tensor, bias: Tensor | None, target: Tensor, cap: float) -> Tensor:
        return _value(x, c, bias, target, cap)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:4])
        ctx.cap = inputs[4]

    @staticmethod
    @first_derivative_only("a softcap", "the loss of a matrix of logits")
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        wanted = list(ctx.needs_input_grad[:3])
        gradients = _gradient(*ctx.saved_tensors, ctx.cap, upstream.contiguous(), wanted)
        return *(g if asked else None for g, asked in zip(gradients, wanted, strict=True)), None, None


def _empty_gradients(x: Tensor, c: Tensor, bias: Tensor | None, wanted: list[bool]) -> tuple[Tensor, Tensor, Tensor]:
    inputs = x, c, x if bias is None else bias
    dx, dc, dbias = (torch.empty_like(t) if asked else t.new_empty(0) for t, asked in zip(inputs, wanted, strict=True))
    return dx, dc, dbias


def _wide(x: Tensor, c: Tensor) -> torch.dtype:
    return torch.promote_types(torch.promote_types(x.dtype, c.dtype), torch.float32)


def _blocks(x: Tensor, c: Tensor, bias: Tensor | None, cap: float) -> Iterator[tuple[slice, Tensor]]:
    """(rows, tanh of their capped logits) with about 2^22 logits each, in the dtype of c."""
    bias = None if bias is None else bias.to(c.dtype) / cap
    size = max(1, _BLOCK_ENTRIES // max(1, len(c)))
    for start in range(0, len(x), size):
        rows = slice(start, start + size)
        yield rows, F.linear(x[rows].to(c.dtype) / cap, c, bias).tanh_()
