"""What the operators' autograd functions share."""

import functools
import inspect
from typing import NamedTuple

import torch
from torch import Tensor


def double(value, like: Tensor) -> Tensor:
    """A 0-dim float64 tensor on the device of `like`, which is not waited for."""
    if isinstance(value, Tensor):
        return value.to(like.device, torch.float64, non_blocking=like.is_cuda)
    return torch.full((), value, dtype=torch.float64, device=like.device)


def scaled(gradient: Tensor, upstream: Tensor, like: Tensor) -> Tensor | None:
    """A kept gradient times the upstream one, in the dtype of its input: never rounded to 16 bits before."""
    return (gradient * upstream.to(gradient.dtype)).to(like.dtype) if gradient.shape == like.shape else None


def first_derivative_only(source: str, dense: str):
    """A gradient asked for with create_graph=True carries a node that raises: a second derivative is never dropped.

    The message says that `source` has none, and `dense`, the same scores as a matrix, has.
    """

    def decorate(backward):
        @functools.wraps(backward)
        def wrapped(ctx, *upstream):
            with torch.no_grad():
                gradients = backward(ctx, *upstream)
            if torch.compiler.is_compiling() or not torch.is_grad_enabled():
                return gradients
            message = f"mi_ext: {source} has no second derivative; {dense} has"
            causes = [t for t in (*ctx.saved_tensors, *upstream) if t is not None and t.requires_grad]
            return tuple(None if g is None else _NoSecondDerivative.apply(message, g, *causes) for g in gradients)

        return wrapped

    return decorate


class _NoSecondDerivative(torch.autograd.Function):
    @staticmethod
    def forward(ctx, message, gradient, *causes):
        ctx.message = message
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx, *upstream):
        raise RuntimeError(ctx.message)


class _Positional(inspect.Signature):
    """Of a function that is called with all its arguments, in order: there is nothing to bind."""

    def bind(self, *args):
        return _Bound(args)


class _Bound(NamedTuple):
    args: tuple
    kwargs = {}

    def apply_defaults(self) -> None:
        pass


def quick_to_bind(*functions) -> None:
    """torch binds each call to forward's signature, which takes longer than solving a small problem."""
    for function in functions:
        signature = inspect.signature(function.forward)
        function.forward.__signature__ = _Positional(list(signature.parameters.values()))
