"""Peers' own packages, and whether a loss of `mi_ext.dropin` agrees with one of theirs."""

import importlib
import importlib.util
import sys
import types
from collections.abc import Callable

import pytest
from side_by_side import TOLERANCE, check_same, parameters
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


def agree(ours: Callable, theirs: Callable, *inputs, tolerance: float = TOLERANCE) -> None:
    """The same results, and the same gradient of every floating-point input."""
    named, wanted = by_name(inputs)
    check_same(*(lambda f=f, **values: f(*values.values()) for f in (ours, theirs)), named, wanted, tolerance)


def by_name(inputs) -> tuple[dict, tuple[str, ...]]:
    """(inputs with names, in their order, the names of those that can have a gradient)."""
    named = {f"input{k}": t for k, t in enumerate(inputs)}
    return named, tuple(k for k, t in named.items() if isinstance(t, Tensor) and t.is_floating_point())


def same_signature(ours: Callable, theirs: Callable) -> None:
    """Names, order, kinds and defaults of the parameters; annotations may differ."""
    assert parameters(ours) == parameters(theirs)
