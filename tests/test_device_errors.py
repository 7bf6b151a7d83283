"""What tensors of a GPU are told where something is wrong: by the kernels' own checks, or why there are no kernels."""

import joint_problems
import pytest
import torch
from problems import problem

from mi_ext import _C

raw = torch.ops.mi_ext
CUDA = torch._C.DispatchKey.CUDA
BUILT = not _C.build_info()["cuda"].startswith("no")
BY_TORCH = {f"mi_ext::{name}" for name in ("unit_rows", "unit_rows_gradient", "kept_gradient")}  # on a GPU
OPERATORS = [
    name
    for name in torch._C._dispatch_get_registrations_for_dispatch_key("CPU")
    if name.startswith("mi_ext::") and name not in BY_TORCH
]
INDEX = torch.tensor([[0, 4, 1], [2, 2, 3], [1, 0, 4], [3, 4, 0]])


def arguments(operator, p):
    """Positional, of a raw operator without its flags' last, tf32."""
    target, x_label, y_label, v = p.exclusions
    scale = torch.tensor(p.scale, dtype=torch.float64)
    sides = p.x, p.y, scale
    exclusions = target, x_label, y_label, v
    rows, none = torch.zeros(len(p.x), dtype=torch.float64), torch.zeros(0, dtype=torch.float64)
    return {
        "dot_statistics": (*sides, *exclusions, False),
        "dot_clipped_lse": (*sides, scale, *exclusions, 1.0),
        "dot_fused": (*sides, *exclusions, None, 0.0, 0.0, False, True),
        "dot_gradient": (*sides, *exclusions, rows, rows, none, rows, rows, none, True),
        "dot_softplus_sum": (*sides, scale, *exclusions, True, True),
        "dot_ranking": (*sides, *exclusions, None),
        "importance_statistics": (p.x, *sides, scale, *exclusions),
        "importance_fused": (p.x, *sides, scale, *exclusions, None, None, rows, 1.0, 1.0, 1.0, True, True),
        "importance_gradient": (p.x, *sides, scale, *exclusions, *(rows,) * 10, True, True),
        "gathered_lse": (p.x, p.y, INDEX, scale),
        "gathered_clipped_lse": (p.x, p.y, INDEX, scale, scale, 1.0),
        "gathered_fused": (p.x, p.y, INDEX, scale, rows, 0.0, 0.0, False, True),
        "gathered_gradient": (p.x, p.y, INDEX, scale, rows, rows, True),
        "gathered_softplus_sum": (p.x, p.y, INDEX, scale, scale, True, True),
        "gathered_ranking": (p.x, p.y, INDEX, scale, p.x),
    }[operator]


@pytest.mark.parametrize("operator", [name for name in OPERATORS if not name.startswith("mi_ext::joint_")])
def test_errors_of_kernels_for_gpus(operator):
    """Tensors of the CPU, sent where those of a GPU go: to the kernel's own checks, or to why there is no kernel."""
    of_kernel, of_none = (
        "expected all tensors on one GPU, but x is on cpu",
        "got tensors on .* built .*MI_EXT_CUDA=1 pip",
    )
    name = operator.removeprefix("mi_ext::")
    with pytest.raises(RuntimeError, match=f"{operator}: {of_kernel if BUILT else of_none}"):
        getattr(raw, name).default._op_dk(CUDA, *arguments(name, problem(4, 5, 3)))


def joint_arguments(operator):
    """Positional, of a raw operator."""
    p = joint_problems.problem(4, 5, 3, 1)
    rows, none = torch.zeros(4, dtype=torch.float64), torch.zeros(0, dtype=torch.float64)
    tensors, exclusions = tuple(p.tensors.values()), p.exclusions
    return {
        "joint_statistics": (*tensors, *exclusions, False),
        "joint_clipped_lse": (*tensors, p.bias, *exclusions, 1.0),
        "joint_fused": (*tensors, *exclusions, 0.0, 0.0, False),
        "joint_gradient": (*tensors, *exclusions, rows, none, rows, rows, none),
        "joint_softplus_sum": (*tensors, p.bias, *exclusions, True),
        "joint_ranking": (*tensors, *exclusions),
        "joint_matrix": tensors,
        "joint_matrix_gradient": (*tensors, torch.zeros(4, 5)),
    }[operator]


@pytest.mark.parametrize("operator", [name for name in OPERATORS if name.startswith("mi_ext::joint_")])
def test_errors_of_joint_kernels_for_gpus(operator):
    of_kernel = "expected all tensors on one GPU, but a is on cpu"
    name = operator.removeprefix("mi_ext::")
    with pytest.raises(RuntimeError, match=f"{operator}: {of_kernel if BUILT else 'got tensors on .* built '}"):
        getattr(raw, name).default._op_dk(CUDA, *joint_arguments(name))


def test_no_operator_leaves_a_tensor_on_a_gpu_without_an_answer():
    assert all(torch._C._dispatch_has_kernel_for_dispatch_key(name, "CUDA") for name in (*OPERATORS, *BY_TORCH))
