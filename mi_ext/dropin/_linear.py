"""Logits of a linear classifier as scores: rows = inputs, columns = classes."""

from collections.abc import Callable

import torch
from torch import Tensor

from ..scores import DotScores


def class_scores(x: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor) -> DotScores:
    """s_ic = <x_i, w_c> + b_c, x [n, d], weight [C, d], bias [C]: a further feature of w that multiplies a 1 in x."""
    if bias is not None:
        x = torch.cat([x, x.new_ones(len(x), 1)], 1)
        weight = torch.cat([weight, bias[:, None]], 1)
    return DotScores(x, weight, target=target)


def check_classes(name: str, target: Tensor, n_classes: int, ignore_index: int) -> None:
    """IndexError, as torch.nn.functional.cross_entropy, for a class that there is not; not looked for on a GPU."""
    if torch.compiler.is_compiling() or not target.is_cpu:
        return
    outside = target[(target != ignore_index) & ((target < 0) | (target >= n_classes))]
    if len(outside) > 0:
        raise IndexError(f"{name}: expected classes in [0, {n_classes}) or {ignore_index}, got {int(outside[0])}")


def per_row(x: Tensor, target: Tensor, ignore_index: int, rows: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """[…, n]: rows(x, target), and 0 where target = ignore_index: such rows are not walked over.

    While torch.compile traces they are, and are put out afterwards: then no shape may depend on data.
    """
    valid = target != ignore_index
    if torch.compiler.is_compiling():
        return torch.where(valid, rows(x, torch.where(valid, target, 0)), 0.0)
    if valid.all():
        return rows(x, target)
    (kept,) = valid.nonzero(as_tuple=True)
    found = rows(x[kept], target[kept])
    return found.new_zeros(*found.shape[:-1], len(x)).index_copy(-1, kept, found)


def total(x: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, ignore_index: int) -> Tensor:
    """Σ of the cross-entropies of rows that are not ignored; one walk gives it and its gradient."""

    def cross_entropy(reduction: str) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda x, target: class_scores(x, weight, bias, target).cross_entropy(reduction=reduction)

    if torch.compiler.is_compiling():
        return per_row(x, target, ignore_index, cross_entropy("none")).sum()
    valid = target != ignore_index
    return cross_entropy("sum")(*((x, target) if valid.all() else (x[valid], target[valid])))


def mean(total: Tensor, mass: Tensor) -> Tensor:
    """total / mass; over no mass NaN, with gradient 0, as torch.nn.functional.cross_entropy has it."""
    return torch.where(mass > 0, total / torch.where(mass > 0, mass, 1), torch.nan)
