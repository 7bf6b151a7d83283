"""What the operators' autograd functions share."""

import functools

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .vmap import each_problem


class Operator(torch.autograd.Function):
    """A differentiable function of the raw operators, which torch.func.vmap maps over problems.

    raw: the name of the one that it only passes its arguments to, if so: that has its gradient too then, for graphs of
    torch.export, in which raw operators are all that is left.
    """

    raw: str | None = None

    def __init_subclass__(cls):
        cls.vmap = staticmethod(functools.partial(each_problem, cls.apply))
        if cls.raw is not None:
            torch.library.register_autograd(f"mi_ext::{cls.raw}", cls.raw_backward, setup_context=cls.setup_context)

    @classmethod
    def raw_backward(cls, ctx, *upstream):
        gradients = cls.backward(ctx, *upstream)
        gradients += (None,) * (len(ctx.needs_input_grad) - len(gradients))
        missing = [wanted and g is None for wanted, g in zip(ctx.needs_input_grad, gradients, strict=True)]
        if any(missing) and any(g is not None for g in upstream):
            _graph_for_values()
        return gradients

    @classmethod
    def apply(cls, *arguments):
        try:
            if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
                return super().apply(*arguments)
            # What torch does besides, binding the arguments to a signature, takes longer than solving a small problem.
            with torch._C._AutoDispatchBelowAutograd():  # the raw operator's own gradient is not asked for
                return super(torch.autograd.Function, cls).apply(*arguments)
        except NotImplementedError as error:
            if forward_ad._current_level < 0:
                raise
            # torch.compile takes no function with a jvp of its own, not even one that only raises.
            raise NotImplementedError(
                "mi_ext: scores that are never stored have no forward-mode derivative (jvp, jacfwd, hessian); use "
                "reverse mode (grad, jacrev), or DenseScores of the score matrix, which has both"
            ) from error


def _graph_for_values(*_):
    raise RuntimeError(
        "mi_ext: this graph was exported without a gradient of an input that asks for one now; export it with example "
        "inputs that have requires_grad set"
    )


def no_gradient_in_exported_graphs(raw: str) -> None:
    """An error, for a raw operator that does not know all that its gradient depends on."""
    torch.library.register_autograd(f"mi_ext::{raw}", _graph_for_values)


def asks_for_gradient(*values) -> bool:
    """One of them does, by itself or in a transform of torch.func: a batched tensor does not tell of what it holds."""
    if torch.is_grad_enabled():
        for t in values:
            if isinstance(t, Tensor) and (t.requires_grad or _wraps_one_that_does(t)):
                return True
    return False


def _wraps_one_that_does(t: Tensor) -> bool:
    while not t.requires_grad and not torch.compiler.is_compiling():
        if not torch._C._functorch.is_functorch_wrapped_tensor(t):
            return False
        t = torch._C._functorch.get_unwrapped(t)
    return t.requires_grad


def double(value, like: Tensor) -> Tensor:
    """A 0-dim float64 tensor on the device of `like`, which is not waited for."""
    if isinstance(value, Tensor):
        return value.to(like.device, torch.float64, non_blocking=like.is_cuda)
    return torch.full((), value, dtype=torch.float64, device=like.device)


def cast(t: Tensor, dtype: torch.dtype) -> Tensor:
    """t.to(dtype), without a call of torch where there is nothing to do."""
    return t if t.dtype == dtype else t.to(dtype)


def scaled(gradient: Tensor, upstream: Tensor, like: Tensor) -> Tensor | None:
    """A kept gradient times the upstream one, in the dtype of its input: never rounded to 16 bits before.

    A 0-dim upstream of any dtype leaves the gradient's. In place, unless the graph may be walked again.
    """
    if gradient.shape != like.shape:
        return None
    return cast(gradient * upstream if _graph_is_kept() else gradient.mul_(upstream), like.dtype)


def _graph_is_kept() -> bool:
    """The backward pass at work may be followed by another (retain_graph, create_graph), or is being transformed."""
    transformed = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
    return transformed or torch._C._autograd._get_current_graph_task_keep_graph()


def first_derivative_only(source: str, dense: str):
    """A gradient asked for with create_graph=True carries a node that raises: a second derivative is never dropped.

    The message says that `source` has none, and `dense`, the same scores as a matrix, has.
    """

    def decorate(backward):
        @functools.wraps(backward)
        def wrapped(ctx, *upstream):
            if not torch.is_grad_enabled():
                return backward(ctx, *upstream)
            with torch.no_grad():
                gradients = backward(ctx, *upstream)
            if torch.compiler.is_compiling():
                return gradients
            message = f"mi_ext: {source} has no second derivative; {dense} has"
            causes = [t for t in (*ctx.saved_tensors, *upstream) if t is not None and t.requires_grad]
            return tuple(None if g is None else _NoSecondDerivative.apply(message, g, *causes) for g in gradients)

        return wrapped

    return decorate


class _NoSecondDerivative(Operator):
    @staticmethod
    def forward(message, gradient, *causes):
        return gradient.view_as(gradient)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.message = inputs[0]

    @staticmethod
    def backward(ctx, *upstream):
        raise RuntimeError(ctx.message)
