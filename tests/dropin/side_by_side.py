"""A drop-in and its peer on the same inputs, in float64: results, every gradient, signatures, what is kept."""

import inspect
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

TOLERANCE = 1e-9


def evaluate(call: Callable, inputs: dict, wanted: tuple[str, ...]) -> list[Tensor]:
    """Results of call(**inputs), then the gradients of Σ_k <1, 2, …; result_k> by the inputs wanted; 0 for none."""
    leaves = {
        k: t.detach().clone().requires_grad_(k in wanted) if isinstance(t, Tensor) else t for k, t in inputs.items()
    }
    results = call(**leaves)
    results = list(results) if isinstance(results, (tuple, list)) else [results]
    total = sum((r * torch.arange(1, r.numel() + 1).reshape(r.shape)).sum() for r in results)
    asked = [leaves[k] for k in wanted if leaves[k] is not None]
    gradients = torch.autograd.grad(total, asked, allow_unused=True) if asked else ()
    found = [torch.zeros_like(t) if g is None else g for t, g in zip(asked, gradients, strict=True)]
    return [r.detach() for r in results] + found


def check_same(ours: Callable, peer: Callable, inputs: dict, wanted: tuple[str, ...], tolerance: float = TOLERANCE):
    """Same shapes, dtypes and, within tolerance · (1 + |value|), values."""
    expected = evaluate(peer, inputs, wanted)
    found = evaluate(ours, inputs, wanted)
    assert len(found) == len(expected)
    for result, truth in zip(found, expected, strict=True):
        assert result.dtype == truth.dtype
        assert result.shape == truth.shape
        torch.testing.assert_close(result, truth, rtol=tolerance, atol=tolerance, equal_nan=True)


def parameters(function: Callable) -> list[tuple]:
    """(name, kind, default) of a signature; functions and members of enums as defaults by their names."""

    def readable(default):
        return getattr(default, "__name__", getattr(default, "name", default))

    signature = inspect.signature(function)
    return [(p.name, p.kind, readable(p.default)) for p in signature.parameters.values()]


def saved_bytes(call: Callable) -> int:
    """Bytes of distinct storages that the call keeps for the backward pass."""
    kept = {}

    def pack(t):
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        call()
    return sum(kept.values())


class _Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that any operation returned."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for t in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(t, Tensor):
                self.numel = max(self.numel, t.numel())
        return result


def largest(call: Callable) -> int:
    """Elements of the largest tensor, kept or not, of call() and of the backward pass of the sum of its results."""
    with _Largest() as mode:
        results = call()
        sum(r.sum() for r in (results if isinstance(results, tuple) else (results,))).backward()
    return mode.numel


def raises_alike(ours: Callable, peer: Callable) -> None:
    """Both raise, and what ours raises is an instance of the type that the peer's is."""
    errors = []
    for call in (ours, peer):
        try:
            call()
        except Exception as error:  # noqa: BLE001
            errors.append(error)
    assert len(errors) == 2, f"expected two errors, got {errors}"
    assert isinstance(errors[0], type(errors[1])), errors
