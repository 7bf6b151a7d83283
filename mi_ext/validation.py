"""Checks of what a user passes: each error names the argument, what was expected, what came and what to do."""

import math
import reprlib

import torch
from torch import Tensor

_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def readable(t: Tensor) -> bool:
    """Values may be looked at at once: not those on a GPU, which would have to finish its work first, not while
    torch.compile or export traces, not those of fake or meta tensors."""
    if torch.compiler.is_compiling() or t.device.type != "cpu":
        return False
    return type(t) in (Tensor, torch.nn.Parameter) and not torch._C._functorch.is_functorch_wrapped_tensor(t)


def batched(t: Tensor) -> bool:
    """torch.func.vmap made it of a batch of problems, by itself or within another transform."""
    if torch.compiler.is_compiling():
        return False
    while torch._C._functorch.is_functorch_wrapped_tensor(t):
        if torch._C._functorch.is_batchedtensor(t):
            return True
        t = torch._C._functorch.get_unwrapped(t)
    return False


def no_compiled_vmap() -> None:
    """torch.compile hides from what it traces within vmap that a gradient is asked for: it would be 0."""
    if torch.compiler.is_compiling() and torch.is_grad_enabled():
        _raise_in_vmap()


@torch.compiler.assume_constant_result
def _raise_in_vmap() -> None:
    for interpreter in torch._C._functorch.get_interpreter_stack() or ():
        if interpreter.key() == torch._C._functorch.TransformType.Vmap:
            raise RuntimeError(
                "mi_ext: torch.compile cannot differentiate torch.func.vmap of these scores; call vmap outside of what "
                "is compiled (torch.compiler.disable), or compile under torch.no_grad()"
            )


def one_problem(name: str, t: Tensor, what: str) -> None:
    """An error inside torch.func.vmap, for what cannot be done for a batch of problems at once."""
    if batched(t):
        raise ValueError(f"{name}: {what}, and got a batch of torch.func.vmap; call it for one problem after another")


def floating_matrix(name: str, t: Tensor, shape: str = "[n, d]") -> None:
    if not isinstance(t, Tensor) or not t.is_floating_point():
        raise TypeError(f"{name}: expected a floating-point tensor {shape}, got {describe(t)}")
    if t.dim() != 2:
        raise ValueError(f"{name}: expected two dimensions {shape}, got shape {tuple(t.shape)}")


def vectors(name: str, t: Tensor, dim: int) -> None:
    """[n, dim] for a width that is fixed."""
    floating_matrix(name, t, f"[n, {dim}]")
    if t.shape[1] != dim:
        raise ValueError(f"{name}: expected vectors of width {dim}, got shape {tuple(t.shape)}")


def describe(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of dtype {value.dtype} and shape {tuple(value.shape)}"
    return f"{type(value).__name__} {reprlib.repr(value)}"


def distinct(t: Tensor, other: Tensor | None) -> Tensor:
    """t, or a view of it where both are one tensor: torch.compile traces no function of the same tensor twice."""
    return t.view_as(t) if t is other else t


def same_width(name: str, t: Tensor, x: Tensor) -> None:
    if t.shape[1] != x.shape[1]:
        raise ValueError(f"{name}: expected the width of x, d = {x.shape[1]}, got shape {tuple(t.shape)}")
    same_device(name, t, x.device)


def same_device(name: str, t: Tensor, device: torch.device) -> None:
    if t.device != device:
        raise ValueError(f"{name}: expected a tensor on {device}, like x, got {t.device}; move it with .to(x.device)")


def target_or_default(target: Tensor | None, n: int, m: int, x: Tensor) -> Tensor:
    """int64 [n] with values in [0, m); arange(n) when not given."""
    if target is None:
        if m < n:
            raise ValueError(
                f"target: the default, candidate i for query i, needs at least n = {n} candidates, got m = {m}; "
                "pass target=, the index of each query's positive, or positive=, the positives themselves"
            )
        return torch.arange(n, device=x.device)
    candidate_index("target", target, n, m, x.device)
    return target


def candidate_index(name: str, index: Tensor, n: int, m: int, device: torch.device) -> None:
    """int64 [n] with values in [0, m). On a GPU the kernels see to values outside: their rows become NaN."""
    if not isinstance(index, Tensor) or index.dtype != torch.int64:
        raise TypeError(f"{name}: expected an int64 tensor [n], got {describe(index)}")
    if index.shape != (n,):
        raise ValueError(f"{name}: expected one index per query, shape ({n},), got {tuple(index.shape)}")
    same_device(name, index, device)
    if n > 0 and m == 0:
        raise ValueError(f"{name}: expected candidate indices, but there are no candidates")
    if n > 0 and readable(index):
        low, high = int(index.min()), int(index.max())
        if low < 0 or high >= m:
            raise ValueError(f"{name}: expected candidate indices in [0, {m}), got values from {low} to {high}")


def external_positive(positive: Tensor, target: Tensor | None, x: Tensor, width: int | None = None) -> None:
    """[n, d] beside the candidates, so without a target among them; [n, width] where y is not as wide as x."""
    if target is not None:
        raise ValueError(
            "target, positive: expected one of them, got both; target= picks positives from y, positive= adds them"
        )
    if width is None:
        return beside("positive", positive, x)
    vectors("positive", positive, width)
    if len(positive) != len(x):
        raise ValueError(f"positive: expected one vector for each of {len(x)} queries, got {tuple(positive.shape)}")
    same_device("positive", positive, x.device)


def beside(name: str, t: Tensor, x: Tensor) -> None:
    """[n, d]: a vector for each query."""
    floating_matrix(name, t)
    if t.shape != x.shape:
        raise ValueError(f"{name}: expected the shape of x, {tuple(x.shape)}, got {tuple(t.shape)}")
    same_device(name, t, x.device)


def own_negatives(x: Tensor, bank: Tensor | None, index: Tensor | None, negatives: Tensor | None) -> Tensor:
    """The bank [V, d] that index int64 [n, K−1] points into, or the negatives [n, K−1, d]."""
    if (bank is None) == (negatives is None) or (bank is None) != (index is None):
        given = [name for name, t in (("bank", bank), ("index", index), ("negatives", negatives)) if t is not None]
        raise ValueError(f"bank, index, negatives: expected bank and index, or negatives alone, got {given or 'none'}")
    if bank is not None and index is not None:
        floating_matrix("bank", bank, "[V, d]")
        same_width("bank", bank, x)
        row_index("index", index, x.shape[0], bank.shape[0], x.device)
        return bank
    if not isinstance(negatives, Tensor) or not negatives.is_floating_point():
        raise TypeError(f"negatives: expected a floating-point tensor [n, K−1, d], got {describe(negatives)}")
    n, d = x.shape
    if negatives.dim() != 3 or (negatives.shape[0], negatives.shape[2]) != (n, d):
        raise ValueError(f"negatives: expected shape ({n}, K−1, {d}) like x, got {tuple(negatives.shape)}")
    same_device("negatives", negatives, x.device)
    return negatives


def row_index(name: str, index: Tensor, n: int, rows: int, device: torch.device) -> None:
    """int64 [n, K−1] with values in [0, rows). On a GPU the kernels see to values outside: their rows become NaN."""
    if not isinstance(index, Tensor) or index.dtype != torch.int64:
        raise TypeError(f"{name}: expected an int64 tensor [n, K−1], got {describe(index)}")
    if index.dim() != 2 or index.shape[0] != n:
        raise ValueError(f"{name}: expected rows of the bank for each query, ({n}, K−1), got {tuple(index.shape)}")
    same_device(name, index, device)
    if index.numel() == 0 or not readable(index):
        return
    low, high = index.aminmax()
    if low < 0 or high >= rows:
        i, k = ((index < 0) | (index >= rows)).nonzero()[0].tolist()
        raise ValueError(f"{name}: expected rows of the bank in [0, {rows}), got {index[i, k]} at [{i}, {k}]")


def label_pair(labels: object, n: int, m: int, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """(labels of the queries [n], labels of the candidates [m]) as int64."""
    if labels is None:
        return None, None
    if not isinstance(labels, (tuple, list)) or len(labels) != 2:
        raise TypeError(f"labels: expected a pair (labels of x [n], labels of y [m]), got {describe(labels)}")
    for side, label, size in zip(("x", "y"), labels, (n, m), strict=True):
        if not isinstance(label, Tensor) or label.dtype not in _INTEGERS:
            raise TypeError(f"labels: expected integer tensors, got {describe(label)} for {side}")
        if label.shape != (size,):
            raise ValueError(f"labels: expected shape ({size},) for {side}, got {tuple(label.shape)}")
        same_device("labels", label, x.device)
    return labels[0].long(), distinct(labels[1], labels[0]).long()


def log_weight_per_candidate(log_weight: Tensor | None, m: int, x: Tensor) -> None:
    if log_weight is None:
        return
    if not isinstance(log_weight, Tensor) or not log_weight.is_floating_point():
        raise TypeError(f"candidate_log_weight: expected a floating-point tensor [m], got {describe(log_weight)}")
    if log_weight.shape != (m,):
        raise ValueError(
            f"candidate_log_weight: expected one log-weight per candidate, shape ({m},), got {tuple(log_weight.shape)}"
        )
    same_device("candidate_log_weight", log_weight, x.device)


def scalar(name: str, value: object, *, non_zero: bool = False, positive: bool = False) -> None:
    """A finite float or 0-dim tensor; one on a GPU is taken as it is, and NaN makes NaN."""
    if isinstance(value, Tensor):
        if value.dim() != 0:
            raise ValueError(f"{name}: expected a float or a 0-dim tensor, got {describe(value)}; use .reshape(())")
        if not readable(value):
            return
        value = value.detach().item()
    elif isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name}: expected a float or a 0-dim tensor, got {describe(value)}")
    if torch.compiler.is_compiling():
        return
    if not math.isfinite(value) or (non_zero and value == 0) or (positive and value <= 0):
        expected = (
            "a positive number" if positive else "a finite number other than 0" if non_zero else "a finite number"
        )
        raise ValueError(f"{name}: expected {expected}, got {value}")


def log_weight(name: str, value: object, n: int) -> float | Tensor:
    """A float below +inf (−inf removes the term), or a tensor () or [n]; returned as a float or a float64 tensor."""
    if isinstance(value, Tensor):
        if value.shape not in ((), (n,)):
            raise ValueError(f"{name}: expected a float or a tensor () or ({n},), got shape {tuple(value.shape)}")
        return value.double()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name}: expected a float or a tensor, got {describe(value)}")
    if math.isnan(value) or value == math.inf:
        raise ValueError(f"{name}: expected a log-weight below +inf (−inf removes the term), got {value}")
    return float(value)


def positive_int(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}: expected an int, got {describe(value)}")
    if value < 1:
        raise ValueError(f"{name}: expected at least 1, got {value}")


def one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, allowed))}, got {value!r}")
