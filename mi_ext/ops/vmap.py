"""torch.func.vmap over the operators: a batch of problems is solved one after another.

Each problem fills the machine by itself, so a loop loses nothing. What has no batch dimension is shared by all.
"""

import torch

from .. import _C  # noqa: F401  registers torch.ops.mi_ext


def each_problem(function, info, in_dims, *arguments):
    """(results of `function` for each problem, stacked along dimension 0; that dimension for each result)."""
    if info.batch_size == 0:
        raise ValueError("mi_ext: vmap over a batch of 0 problems has no results to stack; expected at least one")
    results = [function(*_problem(arguments, in_dims, k)) for k in range(info.batch_size)]
    if isinstance(results[0], torch.Tensor):
        return torch.stack(results), 0
    return tuple(map(torch.stack, zip(*results, strict=True))), (0,) * len(results[0])


def _problem(arguments, in_dims, k: int):
    return [a if dim is None else a.select(dim, k) for a, dim in zip(arguments, in_dims, strict=True)]


def register_vmap_of_operators() -> None:
    """For calls outside of an autograd function: those without a gradient, and those in a backward pass."""
    for name in torch._C._dispatch_get_registrations_for_dispatch_key("CPU"):
        if name.startswith("mi_ext::"):
            torch.library.register_vmap(name, _rule(getattr(torch.ops.mi_ext, name.removeprefix("mi_ext::"))))


def _rule(operator):
    return lambda info, in_dims, *arguments: each_problem(operator, info, in_dims, *arguments)
