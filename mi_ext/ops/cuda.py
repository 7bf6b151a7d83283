"""Operators on CUDA tensors: the precision of their products, and what is said where there are no kernels for them."""

import torch
from torch import Tensor

from .. import _C

_INSTALL = (
    "to have them, install a torch with CUDA and an nvcc of the same major version, then build again: "
    "MI_EXT_CUDA=1 pip install --no-build-isolation --force-reinstall --no-deps . (in the folder of its source)"
)


def tf32(x: Tensor) -> bool:
    """float32 products on a GPU may round their factors to 11 bits: where torch's own matrix products do."""
    return x.is_cuda and x.dtype == torch.float32 and _torch_uses_tf32()


@torch.compiler.assume_constant_result
def _torch_uses_tf32() -> bool:
    """A compiled program keeps what was set when it was traced."""
    return torch.backends.cuda.matmul.fp32_precision == "tf32"


def explain_missing_kernels() -> None:
    """In a build without kernels for CUDA tensors each operator gets one that says why there is none."""
    for operator in torch._C._dispatch_get_registrations_for_dispatch_key("CPU"):
        if operator.startswith("mi_ext::") and not torch._C._dispatch_has_kernel_for_dispatch_key(operator, "CUDA"):
            torch.library.impl(operator, "cuda", _raiser(operator))


def _raiser(operator: str):
    def raise_missing(*arguments, **options):
        built = _C.build_info()["cuda"].removeprefix("no, ")
        why = f"this mi_ext has no kernels for GPUs: it was {built}; {_INSTALL}"
        raise RuntimeError(f"{operator}: got tensors on a CUDA device, but {why}. Tensors moved by .cpu() will do")

    return raise_missing
