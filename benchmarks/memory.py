"""Peak memory with gradients, and what autograd keeps

Peak: everything beyond the inputs, so the returned gradients, (n+m)d numbers, are in it. Saved for backward: bytes of
the distinct tensors that autograd saves, inputs included; the target, O((n+m)d), is judged as ≤ 4 (n+m)d numbers.
"""

import torch
from torch.autograd.graph import saved_tensors_hooks

from mi_ext.losses import InfoNCE

from . import clip_and_pairs, harness, in_batch, peak_memory
from . import competitors as c
from .harness import OURS, Case, Effort, Target

SHAPES = {"full": (16384, 128), "quick": (4096, 128), "tiny": (512, 16)}
SAVED_SIZES = {"full": (1024, 4096), "quick": (1024,), "tiny": (128,)}
SAVED_LIMIT = Target("saved_ratio", 4, at_least=False)


def rows(effort: Effort) -> list[dict]:
    return peak_rows(effort) + [row for n in SAVED_SIZES[effort.name] for row in saved_rows(n, 128, effort)]


def cases(effort: Effort) -> list[Case]:
    n, d = SHAPES[effort.name]
    targets = {OURS: Target("memory", 40 * peak_memory.MIB, at_least=False)} if n == 16384 else {}
    return [Case(f"peak, InfoNCE n=m={n} d={d}", (n, n, d), in_batch.build, targets=targets)]


def peak_rows(effort: Effort) -> list[dict]:
    found = []
    for case in cases(effort):
        for name in case.competitors(effort):
            memory = peak_memory.measured("memory", case.name, name, effort)
            found.append(harness.judged("memory", case, {"competitor": name, "memory": memory}, effort))
    return found


def saved_rows(n: int, d: int, effort: Effort) -> list[dict]:
    x, y = (c.unit_rows(n, d, seed).requires_grad_() for seed in (0, 1))
    objectives = {"InfoNCE": (InfoNCE(c.TEMPERATURE, normalize=False), c.eager_info_nce)}
    objectives |= {name: (ours, plain) for name, (ours, plain, *_) in clip_and_pairs.OBJECTIVES.items()}
    found = []
    for name, losses in objectives.items():
        for competitor, loss in zip((OURS, "eager"), losses, strict=True):
            saved = saved_for_backward(loss, x, y)
            row = {"competitor": competitor, "saved": saved, "saved_ratio": saved / (2 * n * d * x.element_size())}
            case = Case(f"saved, {name} n=m={n} d={d}", (n, n, d), in_batch.build, targets={OURS: SAVED_LIMIT})
            found.append(harness.judged("memory", case, row, effort))
    return found


def saved_for_backward(loss, *inputs: torch.Tensor) -> int:
    """Bytes of the distinct storages that autograd keeps."""
    sizes = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        kept = loss(*inputs)
    del kept
    return sum(sizes.values())
