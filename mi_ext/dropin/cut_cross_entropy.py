"""cut-cross-entropy: the loss of a language model's head without its logits.

    from mi_ext.dropin.cut_cross_entropy import LinearCrossEntropy, linear_cross_entropy

The signature is that of its main branch; every call by keyword of release 25.1.1, which is on PyPI, works as well.
"""

import enum

import torch
from torch import Tensor, nn

from ._capped import capped_cross_entropy
from ._linear import check_classes, class_scores, mean, per_row, total

_PRESETS = ("cce", "cce_exact", "cce_kahan", "cce_kahan_full", "cce_kahan_full_c", "cce_kahan_full_e")


class LinearCrossEntropyImpl(enum.IntEnum):
    """Accepted as `impl`; the computation is the same for each."""

    CCE = enum.auto()
    TORCH_COMPILE = enum.auto()


def linear_cross_entropy(
    e: Tensor,
    c: Tensor,
    targets: Tensor,
    bias: Tensor | None = None,
    ignore_index: int = -100,
    softcap: float | None = None,
    reduction: str = "mean",
    shift: bool | int = 0,
    return_lse: bool = False,
    filter_eps: float | str | None = "auto",
    accum_e_fp32: bool = False,
    accum_c_fp32: bool = False,
    filter_e_grad: bool = True,
    filter_c_grad: bool = True,
    impl: str | LinearCrossEntropyImpl = LinearCrossEntropyImpl.CCE,
    vocab_parallel_options: object = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """−log softmax(s_i)_{t_i}, s_iv = <e_i, c_v> + b_v, with softcap κ > 0: s ← κ tanh(s/κ).

    e [..., d]; c [V, d]; targets [...], integers in [0, V) or ignore_index; bias [V]. shift = k > 0 (True is 1):
    position i of the last dimension predicts target i + k. reduction: "mean" over the targets that are not ignored (NaN
    without one), "sum", or "none": the shape of targets, less the first k, with 0 at ignored ones. return_lse: (loss,
    lse), lse the log of the denominator in the shape of "none", with a gradient.

    Minimise; nats. Does not normalise; the target is in the denominator. Results are float32, float64 for such inputs.
    Nothing n×V is kept; with a softcap, logits exist for about 2^22 / V rows at a time and are made again in the
    backward pass. Gradients are exact and accumulated in at least float32: filter_*, accum_* and impl change nothing.

    AssertionError for shapes of e, c and targets that do not fit, ValueError for a shift out of range or an unknown
    reduction, IndexError for a target out of range, NotImplementedError for an unknown impl and vocab_parallel_options,
    RuntimeError for a second derivative with a softcap.
    """
    shift = _check(e, c, targets, bias, reduction, shift, impl, vocab_parallel_options)
    if shift > 0:
        e, targets = e[..., :-shift, :], targets[..., shift:]
    shape = targets.shape
    x, target = e.reshape(-1, e.shape[-1]), targets.reshape(-1).long()
    check_classes("targets", target, len(c), ignore_index)
    if softcap is None and reduction != "none" and not return_lse:
        loss = total(x, c, bias, target, ignore_index)
        return mean(loss, (target != ignore_index).sum()) if reduction == "mean" else loss

    def loss_and_lse(x: Tensor, target: Tensor) -> Tensor:
        if softcap is not None:
            return capped_cross_entropy(x, c, bias, target, softcap)
        scores = class_scores(x, c, bias, target)
        return torch.stack([scores.cross_entropy(reduction="none"), scores.log_partition()])

    loss, lse = per_row(x, target, ignore_index, loss_and_lse)
    if reduction == "none":
        loss = loss.reshape(shape)
    else:
        loss = mean(loss.sum(), (target != ignore_index).sum()) if reduction == "mean" else loss.sum()
    return (loss, lse.reshape(shape)) if return_lse else loss


class LinearCrossEntropy(nn.Module):
    """`linear_cross_entropy` as a module: forward(e [..., d], c [V, d], targets [...], bias=None)."""

    def __init__(
        self,
        ignore_index: int = -100,
        softcap: float | None = None,
        reduction: str = "mean",
        shift: bool | int = 0,
        filter_eps: float | str | None = "auto",
        accum_e_fp32: bool = False,
        accum_c_fp32: bool = False,
        filter_e_grad: bool = True,
        filter_c_grad: bool = True,
        impl: str | LinearCrossEntropyImpl = LinearCrossEntropyImpl.CCE,
        return_lse: bool = False,
    ):
        super().__init__()
        self.ignore_index = ignore_index
        self.softcap = softcap
        self.reduction = reduction
        self.shift = shift
        self.filter_eps = filter_eps
        self.accum_e_fp32 = accum_e_fp32
        self.accum_c_fp32 = accum_c_fp32
        self.filter_e_grad = filter_e_grad
        self.filter_c_grad = filter_c_grad
        self.impl = impl
        self.return_lse = return_lse

    def forward(
        self, e: Tensor, c: Tensor, targets: Tensor, bias: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        return linear_cross_entropy(
            e,
            c,
            targets,
            bias,
            self.ignore_index,
            self.softcap,
            self.reduction,
            self.shift,
            self.return_lse,
            impl=self.impl,
        )


def _check(
    e: Tensor,
    c: Tensor,
    targets: Tensor,
    bias: Tensor | None,
    reduction: str,
    shift: bool | int,
    impl: str | LinearCrossEntropyImpl,
    vocab_parallel_options: object,
) -> int:
    """shift as an int."""
    if bias is not None and not isinstance(bias, Tensor):
        raise TypeError(
            f"bias: expected a tensor [V], got {bias!r}; the fourth argument was ignore_index in release 25.1.1; "
            "pass it by name"
        )
    if e.shape[:-1] != targets.shape:
        expected = f"one for each of the vectors of e, shape {tuple(e.shape[:-1])}"
        raise AssertionError(f"targets: expected {expected}, got {tuple(targets.shape)}")
    if e.shape[-1] != c.shape[1]:
        raise AssertionError(f"c: expected the width of e, d = {e.shape[-1]}, got shape {tuple(c.shape)}")
    if bias is not None and len(bias) != len(c):
        raise ValueError(f"bias: expected one for each of {len(c)} classes, got {len(bias)}")
    length = targets.shape[-1] if targets.dim() > 0 else 1
    if shift and not 0 < int(shift) < length:
        raise ValueError(f"shift: expected a number in [0, {length}), got {shift}")
    name = impl.name.lower() if isinstance(impl, enum.Enum) else impl
    if name not in (*_PRESETS, "torch_compile"):
        raise NotImplementedError(f"impl: expected one of {', '.join(_PRESETS)} or torch_compile, got {impl!r}")
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"reduction: expected 'none', 'mean' or 'sum', got {reduction!r}")
    if vocab_parallel_options is not None:
        raise NotImplementedError(
            "vocab_parallel_options: a vocabulary split over devices is not there; gather c first"
        )
    return int(shift)
