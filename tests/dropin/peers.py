"""Peers' own packages beside `mi_ext.dropin`: how to import them, and what it means that two losses agree."""

import importlib
import importlib.util
import inspect
import sys
import types
from collections.abc import Callable

import pytest
import torch
from torch import Tensor


def load(name: str, *bare: str):
    """Module `name` of a peer's package; a test that asks for it is skipped where the package is not installed.

    `bare`: packages, and modules the loss does not use, on the way to it. They stand empty instead of being executed,
    for what they import (torchvision, lightning, …) is much more than a loss needs. `load` leaves none of them behind.
    """
    package = name.partition(".")[0]
    spec = importlib.util.find_spec(package)
    if spec is None:
        pytest.skip(
            f"{package} is not installed; extra peers of pyproject.toml and PEERS of the Makefile name its version"
        )
    if not bare:
        return importlib.import_module(name)
    before = {key for key in sys.modules if key.partition(".")[0] == package}
    try:
        for module in bare:
            sys.modules[module] = types.ModuleType(module)
            sys.modules[module].__path__ = ["/".join([spec.submodule_search_locations[0], *module.split(".")[1:]])]
        return importlib.import_module(name)
    finally:
        for key in [key for key in sys.modules if key.partition(".")[0] == package and key not in before]:
            del sys.modules[key]


def leaves(*tensors) -> list:
    """Copies that ask for gradients; what is no floating-point tensor as it is."""
    return [
        t.detach().clone().requires_grad_() if isinstance(t, Tensor) and t.is_floating_point() else t for t in tensors
    ]


def value_and_gradients(function: Callable, *inputs):
    """function(*inputs) without its graph, and the gradients of its sum, weighted where it is a vector."""
    inputs = leaves(*inputs)
    value = function(*inputs)
    upstream = torch.linspace(0.5, 1.5, max(value.numel(), 1), dtype=value.dtype)[: value.numel()].reshape(value.shape)
    asked = [t for t in inputs if isinstance(t, Tensor) and t.requires_grad]
    gradients = torch.autograd.grad(value, asked, upstream, allow_unused=True) if value.requires_grad else []
    return value.detach(), gradients


def agree(ours: Callable, theirs: Callable, *inputs, rtol: float = 1e-9, atol: float = 1e-11) -> None:
    """The same value, shape and dtype, and the same gradient of every input: no gradient stands for zeros."""
    (value, gradients), (expected, expected_gradients) = (value_and_gradients(f, *inputs) for f in (ours, theirs))
    assert value.dtype == expected.dtype and value.shape == expected.shape
    torch.testing.assert_close(value, expected, rtol=rtol, atol=atol)
    assert len(gradients) == len(expected_gradients)
    for mine, other in zip(gradients, expected_gradients, strict=True):
        if mine is None or other is None:
            assert all(t is None or not t.any() for t in (mine, other))
            continue
        assert mine.shape == other.shape and mine.dtype == other.dtype
        torch.testing.assert_close(mine, other, rtol=rtol, atol=atol * max(1.0, other.norm().item()))


def same_error(ours: Callable, theirs: Callable) -> None:
    """Both raise, and ours is an error that code written for theirs catches."""
    with pytest.raises(Exception) as expected:  # noqa: PT011  whichever the peer raises
        theirs()
    with pytest.raises(type(expected.value)):
        ours()


def same_signature(ours: Callable, theirs: Callable) -> None:
    """Names, order, kinds and defaults of the parameters; annotations may differ."""

    def parameters(function):
        return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]

    assert parameters(ours) == parameters(theirs)


def saved_bytes(function: Callable) -> int:
    """Bytes of distinct storages that `function` keeps for its backward pass."""
    saved = {}

    def pack(t: Tensor) -> Tensor:
        saved[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        function()
    return sum(saved.values())
