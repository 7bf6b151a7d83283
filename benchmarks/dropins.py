"""Drop-ins: the same call before and after the import line is changed

Float32, unit rows, forward and backward. "the peer": its own loss on the same inputs with the same defaults;
tests/dropin compares values and gradients.
"""

import importlib
import sys
from functools import partial
from pathlib import Path

import torch

from . import competitors as c
from . import harness
from .harness import OURS, Case, Effort

sys.path.append(str(Path(__file__).parents[1] / "tests/dropin"))
PEER = "the peer"
SHAPE, TINY = (4096, 4096, 128), (48, 48, 16)
LIGHTLY = "lightly", "lightly.loss", "lightly.models", "lightly.models.modules", "lightly.models.utils"
# stand-in: (the peer's module, packages on the way to it that need not be executed, loss, inputs)
LOSSES = {
    "info_nce.InfoNCE": ("info_nce", (), "InfoNCE", "pairs"),
    "lightly.NTXentLoss": ("lightly.loss.ntx_ent_loss", LIGHTLY, "NTXentLoss", "views"),
    "lightly.DCLLoss": ("lightly.loss.dcl_loss", LIGHTLY[:2], "DCLLoss", "views"),
    "open_clip.ClipLoss": ("open_clip.loss", ("open_clip",), "ClipLoss", "scaled pairs"),
    "open_clip.SigLipLoss": ("open_clip.loss", ("open_clip",), "SigLipLoss", "scaled and shifted pairs"),
    "pytorch_metric_learning.NTXentLoss": ("pytorch_metric_learning.losses", (), "NTXentLoss", "labelled views"),
    "pytorch_metric_learning.SupConLoss": ("pytorch_metric_learning.losses", (), "SupConLoss", "ten classes"),
    "torch.linear_cross_entropy": ("torch.nn.functional", (), "linear_cross_entropy", "classes"),
}


def rows(effort: Effort) -> list[dict]:
    return harness.rows(__name__.split(".")[-1], cases(effort), effort)


def cases(effort: Effort) -> list[Case]:
    n, m, d = shape = TINY if effort.name == "tiny" else SHAPE
    return [Case(f"{name} n={n} d={d}", shape, partial(build, name), memory=True) for name in LOSSES]


def build(name: str, n: int, m: int, d: int) -> dict:
    module, unused, loss, kind = LOSSES[name]
    stand_in = importlib.import_module("mi_ext.dropin." + name.partition(".")[0])
    leaves, others = inputs(kind, n, m, d)
    calls = {OURS: lambda: getattr(stand_in, loss), PEER: lambda: getattr(peer(module, *unused), loss)}
    return {key: forward_backward(found, leaves, others) for key, found in calls.items()}


def peer(module: str, *unused: str):
    if not unused:
        return importlib.import_module(module)
    from peers import load

    return load(module, *unused)


def forward_backward(find, leaves: tuple, others: tuple):
    """Losses that are classes are made when first called: a peer's package may be missing."""
    made = []

    def loss(*leaves):
        if not made:
            found = find()
            made.append(found() if isinstance(found, type) else found)
        return made[0](*leaves, *others)

    return c.forward_backward(loss, *leaves)


def inputs(kind: str, n: int, m: int, d: int) -> tuple[tuple, tuple]:
    """What gets a gradient, and what follows it."""
    scalars = {"scaled pairs": (c.SCALE,), "scaled and shifted pairs": (c.SCALE, c.BIAS)}
    if kind == "views":  # the loss joins them: n rows in all
        return (c.unit_rows(n // 2, d, 0), c.unit_rows(n // 2, d, 1)), ()
    if kind == "labelled views":
        return (c.unit_rows(n, d, 0),), (torch.arange(n) % (n // 2),)
    if kind == "ten classes":
        return (c.unit_rows(n, d, 0),), (torch.arange(n) % 10,)
    pairs = c.unit_rows(n, d, 0), c.unit_rows(m, d, 1)
    return pairs, (torch.arange(n),) if kind == "classes" else tuple(map(torch.tensor, scalars.get(kind, ())))
