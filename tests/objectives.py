"""Every public loss and bound as one function of two views, for the tests of what torch does with functions.

objective(x [n, d], y [n, d]) → 0-dim, differentiable in x, and in y where y is not meant to be constant
"""

import torch
from torch import nn

from mi_ext import DenseScores, DotScores, GatheredScores, JointScores, bounds, critics, losses

D = 6


def seeded(build, *arguments, **options):
    torch.manual_seed(3)
    return build(*arguments, **options)


DISCRIMINATOR = seeded(critics.mlp, D, 5, 1)
JOINT = seeded(critics.Joint, D, D, 7, layers=2)
INDEX = torch.randint(8, (64, 11), generator=torch.Generator().manual_seed(0))


def labels(x):
    return torch.arange(x.shape[0]) // 2


def dot(x, y):
    return DotScores(x, y, 0.7, 0.2)


def gathered(x, y):
    return GatheredScores(x, y, INDEX[: x.shape[0]], 0.7, 0.1, positive=y)


def with_codes(name, z):
    matching = losses.PriorMatching(DISCRIMINATOR)
    generator = torch.Generator().manual_seed(1)
    codes = z.sigmoid()
    return matching.encoder_loss(codes) if name == "encoder" else matching.discriminator_loss(codes, generator)


class Encoder(nn.Module):
    """PriorMatching as a loss of the encoder."""

    def __init__(self):
        super().__init__()
        self.matching = losses.PriorMatching(DISCRIMINATOR)

    def forward(self, z):
        return self.matching.encoder_loss(z.sigmoid())


MODULES = {
    "CLIP": losses.CLIP(),
    "DCL": losses.DCL(),
    "DIM": losses.DIM(),
    "InfoNCE": losses.InfoNCE(),
    "KPair": losses.KPair(),
    "MLCPC": losses.MLCPC(alpha=0.5),
    "MoCo": losses.MoCo(),
    "NTXent": losses.NTXent(),
    "NeuralDependency": losses.NeuralDependency(DISCRIMINATOR),
    "PriorMatching": Encoder(),
    "SigLIP": losses.SigLIP(),
    "SupCon": losses.SupCon(),
}
CALLS = {
    "DIM": lambda loss, x, y: loss(x, torch.stack([y, y.flip(0)], 1)),
    "MoCo": lambda loss, x, y: loss(x, y, y.flip(0)),
    "NeuralDependency": lambda loss, x, y: loss(x + y),
    "PriorMatching": lambda loss, x, y: loss(x + y),
    "SupCon": lambda loss, x, y: loss(x + y, labels(x)),
}


def of_module(name):
    call = CALLS.get(name, lambda loss, x, y: loss(x, y))
    return lambda x, y: call(MODULES[name], x, y)


LOSSES = {name: of_module(name) for name in MODULES}
BOUNDS = {
    "alpha_cpc": lambda x, y: bounds.alpha_cpc(dot(x, y), 1.5),
    "chained_infonce": lambda x, y: bounds.chained_infonce([DotScores(x, y), DotScores(x.flip(0), y)]),
    "conditional_eta_dv": lambda x, y: bounds.conditional_eta_dv(gathered(x, y), x[:, 0]),
    "conditional_infonce": lambda x, y: bounds.conditional_infonce(gathered(x, y)),
    "decomposed_infonce": lambda x, y: bounds.decomposed_infonce(DotScores(x, y), DotScores(x.flip(0), y), 0.3),
    "donsker_varadhan": lambda x, y: bounds.donsker_varadhan(dot(x, y)),
    "eta_dv": lambda x, y: bounds.eta_dv(dot(x, y), x[0, 0]),
    "eta_dv_convex": lambda x, y: bounds.eta_dv_convex(x, y, x[0] * y[0], 0.3),
    "f_mine": lambda x, y: bounds.f_mine(dot(x, y)),
    "importance_infonce": lambda x, y: bounds.importance_infonce(DotScores(x, y), DotScores(x.flip(0), y)),
    "infonce": lambda x, y: bounds.infonce(dot(x, y)),
    "interpolated": lambda x, y: bounds.interpolated(dot(x, y), 0.4, y[:, 0]),
    "jensen_shannon": lambda x, y: bounds.jensen_shannon(dot(x, y)),
    "ml_cpc": lambda x, y: bounds.ml_cpc(dot(x, y), 0.5),
    "nwj": lambda x, y: bounds.nwj(dot(x, y)),
    "smile": lambda x, y: bounds.smile(dot(x, y), 1.0),
    "sobolev_penalty": lambda x, y: bounds.sobolev_penalty(DISCRIMINATOR, x + y),
    "tuba": lambda x, y: bounds.tuba(dot(x, y), y[:, 0]),
    "variational_infonce": lambda x, y: bounds.variational_infonce(gathered(x, y), x[:, 0]),
}
SOURCES = {
    "labels": lambda x, y: bounds.infonce(DotScores(x, y, labels=(labels(x), labels(x).roll(1)))),
    "log-weights": lambda x, y: bounds.nwj(DotScores(x, y, candidate_log_weight=y[:, 0])),
    "softplus with log-weights": lambda x, y: DotScores(x, y, candidate_log_weight=y[:, 0]).negative_softplus_sum(),
    "rows": lambda x, y: dot(x, y).cross_entropy(reduction="none").square().sum(),
    "learned scale": lambda x, y: bounds.ml_cpc(DotScores(x, y, x[0, 0].exp(), y[0, 0]), 0.5),
    "softplus": lambda x, y: bounds.jensen_shannon(DotScores(x, y, x[0, 0].exp(), y[0, 0])),
    "gathered softplus": lambda x, y: bounds.smile(gathered(x, y), 1.0),
    "own negatives": lambda x, y: losses.KPair()(x, y, torch.stack([y, y.flip(0)], 1)),
    "joint": lambda x, y: bounds.infonce(JointScores(x, y, JOINT)),
    "joint rows": lambda x, y: JointScores(x, y, JOINT).cross_entropy(reduction="none").square().sum(),
    "joint softplus": lambda x, y: bounds.jensen_shannon(JointScores(x, y, JOINT)),
    "joint matrix": lambda x, y: JointScores(x, y, JOINT).column_block(1, 3).square().sum(),
    "dense": lambda x, y: bounds.infonce(DenseScores(x @ y.T)),
    "importance, two walks": lambda x, y: bounds.importance_infonce(DotScores(x, y), DotScores(x, 2 * y), False),
}
OBJECTIVES = LOSSES | BOUNDS | SOURCES


def views(n=8, batch=(), seed=0):
    """x, y [*batch, n, D]."""
    return torch.randn(2, *batch, n, D, generator=torch.Generator().manual_seed(seed)).unbind()


def value_and_gradients(objective, *inputs):
    inputs = [t.clone().requires_grad_() for t in inputs]
    value = objective(*inputs)
    return value.detach(), *torch.autograd.grad(value, inputs, allow_unused=True, materialize_grads=True)


def close(ours, expected):
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
