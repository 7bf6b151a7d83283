"""Relative errors against float64, of the loss and of its gradient

Norm of the difference over the norm, of the gradients by x and y together. Ordinary data: unit vectors at a cosine of
about 0.3 to their positives; root mean squares over draws. A loss is a float32 number, so an error of 2⁻²⁴ counts as
none. Small losses: an orthonormal basis against itself, scaled so that every row's loss is the one named; the truth is
log1p Σ exp(s_ij − p_i).
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from mi_ext import DotScores
from mi_ext.losses import CLIP, MLCPC, InfoNCE, SigLIP

from . import competitors as c
from .harness import Effort, Target

SIZES = {"full": (1024, 128, 8), "quick": (512, 128, 4), "tiny": (64, 16, 2)}  # n, d, draws
SCALES = (c.SCALE, 100.0)
SMALL_LOSSES = (1e-5, 1e-10, 1e-15, 1e-20)
HALF_ULP = 2.0**-24


def rows(effort: Effort) -> list[dict]:
    n, d, draws = SIZES[effort.name]
    ordinary = [row for scale in SCALES for row in ordinary_rows(n, d, scale, draws)]
    return ordinary + [row for loss in SMALL_LOSSES for row in small_loss_rows(d, loss)]


def ordinary_rows(n: int, d: int, scale: float, draws: int) -> list[dict]:
    t = 1 / scale
    objectives = {
        "InfoNCE": (InfoNCE(t, normalize=False), c.eager_info_nce),
        "CLIP": (CLIP(t, normalize=False), c.eager_clip),
        "ML-CPC": (MLCPC(1.0, t, normalize=False), c.eager_ml_cpc),
        "SigLIP": (SigLIP(t, c.BIAS, normalize=False), c.eager_siglip),
    }
    found = []
    for name, (ours, plain) in objectives.items():
        pairs = [positive_pairs(n, d, seed) for seed in range(draws)]
        rms = rms_errors((ours, partial(plain, scale=scale)), pairs)
        found += error_rows(f"{name} n=m={n} d={d} scale={scale:.3g}", {"error": rms[0], "error_eager": rms[1]})
    return found


def rms_errors(losses: tuple[Callable, Callable], pairs: list) -> list[list[float]]:
    """[mi_ext, plain torch][loss, gradient]; the truth is plain torch in float64."""
    squares = torch.zeros(2, 2, dtype=torch.float64)
    for x, y in pairs:
        truth = evaluate(losses[1], x.double(), y.double())
        squares += torch.tensor([errors(evaluate(loss, x, y), truth) for loss in losses], dtype=torch.float64) ** 2
    return (squares / len(pairs)).sqrt().tolist()


def small_loss_rows(d: int, loss: float) -> list[dict]:
    basis = torch.linalg.qr(torch.randn(d, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64))[0]
    x = basis.float()
    scale = math.log((d - 1) / loss)
    truth = evaluate(lambda x, y: exact(x, y, scale), x.double(), x.double())
    methods = {
        "error": (lambda x, y: DotScores(x, y, scale).cross_entropy(), x),
        "error_eager": (lambda x, y: c.eager_info_nce(x, y, scale), x),
        "error_eager_double": (lambda x, y: c.eager_info_nce(x, y, scale), x.double()),
    }
    found = {name: errors(evaluate(method, z, z.clone()), truth) for name, (method, z) in methods.items()}
    return error_rows(f"InfoNCE n=m=d={d} loss={loss:.0e}", found, limits=(1e-4, None))


def exact(x: Tensor, y: Tensor, scale: float) -> Tensor:
    s = scale * (x @ y.T)
    positive = s.diagonal()
    others = s - positive[:, None] + torch.diag(torch.full_like(positive, -math.inf))
    return torch.logsumexp(others, 1).exp().log1p().mean()


def positive_pairs(n: int, d: int, seed: int) -> tuple[Tensor, Tensor]:
    x, noise = c.unit_rows(n, d, 2 * seed), c.unit_rows(n, d, 2 * seed + 1)
    return x, F.normalize(0.3 * x + noise, dim=1)


def evaluate(loss: Callable, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """(loss, gradients by x and by y as one), float64."""
    value, *gradients = c.forward_backward(loss, x, y)()
    return value.double(), torch.cat(gradients).double()


def errors(found: tuple[Tensor, Tensor], truth: tuple[Tensor, Tensor]) -> tuple[float, float]:
    return tuple(float((a - b).norm() / b.norm()) for a, b in zip(found, truth, strict=True))


def error_rows(problem: str, found: dict[str, tuple], limits: tuple | None = None) -> list[dict]:
    """A row for the loss and one for the gradient. Without `limits`, the limit is the error of eager float32."""
    rows = []
    for k, quantity in enumerate(("loss", "gradient")):
        row = {"family": "accuracy", "problem": f"{problem}: {quantity}"} | {name: e[k] for name, e in found.items()}
        limit = max(row["error_eager"], HALF_ULP) if limits is None else limits[k]
        rows.append(row if limit is None else row | Target("error", limit, at_least=False).judge(row))
    return rows
