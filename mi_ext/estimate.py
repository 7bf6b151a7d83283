"""Mutual information of two samples: `MutualInformationEstimator().fit(x, y).estimate()`."""

import copy
import math
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from . import critics, validation
from .objective import Objective
from .scores import Scores

HIDDEN, EMBEDDING = 128, 32
STEPS_PER_CHECK, CHECKS_WITHOUT_GAIN = 25, 20
GROUPS = 10
NEAR_CAP = 0.8
CANDIDATES, CANDIDATES_OF_JOINT = 8192, 2048
CANDIDATES_WHILE_TRAINING = 512  # of a joint critic: a check on 1500 pairs costs a sixth of the steps before it
_Pairs = tuple[Tensor, Tensor]


class Estimate(NamedTuple):
    """nats ± standard_error from n_pairs held-out pairs by `bound`, which cannot exceed `cap` (None: no limit)."""

    nats: float
    standard_error: float
    cap: float | None
    n_pairs: int
    bound: str

    @property
    def near_cap(self) -> bool:
        """Above 0.8 · cap the bound leaves no room to tell how much larger the truth is."""
        return self.cap is not None and self.nats > NEAR_CAP * self.cap

    def __str__(self) -> str:
        cap = "no cap" if self.cap is None else f"cap {self.cap:.2f}"
        return f"{self.nats:.3f} ± {self.standard_error:.3f} nats ({self.bound}, {self.n_pairs} held-out pairs, {cap})"


class MutualInformationEstimator:
    r"""A lower bound on I(x; y), in nats, from paired samples: a critic is trained on some and judged on others.

    `fit(x, y)` shuffles the pairs, keeps a fraction `holdout` aside, half to choose among training steps and half for
    the estimate, and maximises `bound` on the rest with Adam: for `steps` steps, or until the value on the first half
    has not risen for 500. `estimate()` is the bound on the second half; `estimate(x, y)` on pairs of your own, which
    should not be those of `fit`. Its standard error is a jackknife over ten groups of pairs: noise of the held-out
    pairs, not the gap between bound and truth, which a better critic or more data may close.

    x [n, dx], y [n, dy], or [n]: NumPy arrays or tensors, finite. `standardize` to mean 0 and deviation 1 of the
    training pairs (constant columns become 0). bound: "infonce" ≤ log K, "ml_cpc:0.01", "nwj", "donsker_varadhan",
    "smile:5", …, as `mi_ext.objective.Objective` reads them. critic: "separable", a product of two networks; "joint",
    one network on [x; y], slower; or a module critic(x, y) → Scores, trained in place. batch: pairs in a training
    step. candidates K: pairs scored against each other at once in the estimate, by default at most 8192 ("joint": 2048,
    and 512 where training steps are compared); a UserWarning says when the estimate is near its cap. seed: of split,
    initialisation and batches; the global generator of torch stays as it was. progress: show a bar, if tqdm is
    installed.

    TypeError or ValueError by argument; RuntimeError from `estimate` before `fit`.
    """

    def __init__(
        self,
        bound: str = "infonce",
        critic: str | nn.Module = "separable",
        *,
        batch: int = 256,
        steps: int = 5000,
        lr: float = 1e-3,
        holdout: float = 0.3,
        standardize: bool = True,
        candidates: int | None = None,
        seed: int = 0,
        progress: bool = False,
    ):
        self.objective = Objective(bound)
        if self.objective.name == "jensen_shannon":
            raise ValueError(
                "bound: jensen_shannon does not estimate mutual information; smile:5 trains by it and does"
            )
        if not isinstance(critic, nn.Module) and critic not in ("separable", "joint"):
            expected = "'separable', 'joint' or a module critic(x, y) that returns scores"
            raise ValueError(f"critic: expected {expected}, got {validation.describe(critic)}")
        validation.positive_int("steps", steps)
        least = {"batch": (batch, 2), "candidates": (2 * GROUPS if candidates is None else candidates, 2 * GROUPS)}
        for name, (value, smallest) in least.items():
            if value < smallest:
                raise ValueError(f"{name}: expected at least {smallest} pairs, got {value}")
        if not 0 < holdout < 1:
            raise ValueError(f"holdout: expected a fraction of the pairs in (0, 1), got {holdout}")
        self.bound, self.critic, self.batch, self.steps, self.lr = self.objective.name, critic, batch, steps, lr
        self.holdout, self.standardize, self.seed, self.progress = holdout, standardize, seed, progress
        self.candidates = candidates or (CANDIDATES_OF_JOINT if critic == "joint" else CANDIDATES)
        self._fitted: _Fitted | None = None

    def fit(self, x: Any, y: Any) -> "MutualInformationEstimator":
        x, y = _pairs(x, y)
        n_held = int(len(x) * self.holdout)
        if n_held < 4 * GROUPS or len(x) - n_held < 2:
            least = math.ceil(max(4 * GROUPS / self.holdout, 2 / (1 - self.holdout)))
            raise ValueError(f"x: expected at least {least} pairs with holdout = {self.holdout}, got {len(x)}")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            order = torch.randperm(len(x)).to(x.device)
            test, validate, train = order.tensor_split([n_held // 2, n_held])
            scalers = _Scaler(x[train], self.standardize), _Scaler(y[train], self.standardize)
            x, y = (scale(t) for scale, t in zip(scalers, (x, y), strict=True))
            critic = self._build_critic(x.shape[1], y.shape[1]).to(x.device)
            best_step = self._train(critic, (x[train], y[train]), (x[validate], y[validate]))
        self._fitted = _Fitted(critic.eval(), scalers, (x[test], y[test]), best_step)
        return self

    @property
    def best_step(self) -> int:
        """The training step whose critic is used: the best on the pairs held out for choosing."""
        return self._require_fit().best_step

    def estimate(self, x: Any = None, y: Any = None) -> Estimate:
        fitted = self._require_fit()
        if (x is None) != (y is None):
            raise ValueError("x, y: expected both, or neither for the pairs held out by fit; got one of them")
        held_out = fitted.held_out if x is None else self._scaled(*_pairs(x, y))
        n = len(held_out[0])
        if n < 2 * GROUPS:
            raise ValueError(f"x: expected at least {2 * GROUPS} pairs for an estimate, got {n}")
        parts = list(zip(*(t.tensor_split(-(-n // self.candidates)) for t in held_out), strict=True))
        with torch.no_grad():
            values, errors = zip(*(self._jackknife(fitted.critic, *part) for part in parts), strict=True)
        error = math.hypot(*errors) / len(parts)
        cap = self.objective.cap(min(len(part[0]) for part in parts))
        result = Estimate(math.fsum(values) / len(parts), error, cap, n, self.bound)
        if result.near_cap:
            advice = "use more pairs, larger candidates=, or a bound with a higher cap, such as ml_cpc:0.01"
            warnings.warn(f"estimate {result} is near its cap, the truth may be larger; {advice}", stacklevel=2)
        return result

    def _build_critic(self, dx: int, dy: int) -> nn.Module:
        if isinstance(self.critic, nn.Module):
            return self.critic
        if self.critic == "joint":
            return critics.Joint(dx, dy, HIDDEN, layers=2)
        return critics.Separable(*(critics.mlp(width, HIDDEN, HIDDEN, EMBEDDING) for width in (dx, dy)))

    def _train(self, critic: nn.Module, train: _Pairs, validate: _Pairs) -> int:
        """Leaves the critic as it was at the returned step, the best on `validate`."""
        optimiser = torch.optim.Adam(critic.parameters(), self.lr)
        batches = _batches(len(train[0]), min(self.batch, len(train[0])), train[0].device)
        best, best_step, best_state = self._value(critic, *validate), 0, copy.deepcopy(critic.state_dict())
        with _Bar(self.steps, self.progress) as bar:
            for step in range(1, self.steps + 1):
                index = next(batches)
                critic.train()
                value = self.objective.train()(_scores(critic, train[0][index], train[1][index]))
                optimiser.zero_grad()
                (-value).backward()
                optimiser.step()
                bar.update()
                if step % STEPS_PER_CHECK and step != self.steps:
                    continue
                held_out = self._value(critic, *validate)
                bar.show(held_out)
                if held_out > best or math.isnan(best):
                    best, best_step, best_state = held_out, step, copy.deepcopy(critic.state_dict())
                elif step - best_step >= STEPS_PER_CHECK * CHECKS_WITHOUT_GAIN:
                    break
        critic.load_state_dict(best_state)
        return best_step

    @torch.no_grad()
    def _value(self, critic: nn.Module, x: Tensor, y: Tensor) -> float:
        """Mean of the bound over parts of the held-out pairs."""
        self.objective.eval()
        critic.eval()
        size = min(self.candidates, CANDIDATES_WHILE_TRAINING) if self.critic == "joint" else self.candidates
        parts = list(zip(*(t.tensor_split(-(-len(t) // size)) for t in (x, y)), strict=True))
        return math.fsum(self.objective(_scores(critic, *part)).item() for part in parts) / len(parts)

    def _jackknife(self, critic: nn.Module, x: Tensor, y: Tensor) -> tuple[float, float]:
        """(bound, its standard error): (G − 1)/G Σ_g (value without group g − their mean)² is the variance."""
        self.objective.eval()
        without = []
        for group in torch.arange(len(x), device=x.device).tensor_split(GROUPS):
            kept = torch.ones(len(x), dtype=torch.bool, device=x.device).index_fill(0, group, False)
            without.append(self.objective(critic(x[kept], y[kept])).double())
        deviation = torch.stack(without).std(correction=0).item()
        return self.objective(critic(x, y)).item(), deviation * math.sqrt(GROUPS - 1)

    def _scaled(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        scalers = self._require_fit().scalers
        for name, t, scaler in zip("xy", (x, y), scalers, strict=True):
            if t.shape[1] != len(scaler.mean):
                raise ValueError(f"{name}: expected the width of fit, {len(scaler.mean)}, got {t.shape[1]}")
        return scalers[0](x), scalers[1](y)

    def _require_fit(self) -> "_Fitted":
        if self._fitted is None:
            raise RuntimeError("MutualInformationEstimator: call fit(x, y) before estimate()")
        return self._fitted


def _scores(critic: nn.Module, x: Tensor, y: Tensor) -> Scores:
    scores = critic(x, y)
    if not isinstance(scores, Scores):
        expected = "a module that returns scores, such as mi_ext.DenseScores(matrix)"
        raise TypeError(f"critic: expected {expected}, got one that returns {type(scores).__name__}")
    return scores


class _Scaler:
    """(t − mean)/deviation of the training rows, in float64; float32 results."""

    def __init__(self, train: Tensor, standardize: bool):
        deviation, mean = torch.std_mean(train, 0, correction=0)
        self.mean = mean if standardize else torch.zeros_like(mean)
        self.deviation = torch.where(deviation > 0, deviation, 1.0) if standardize else torch.ones_like(deviation)

    def __call__(self, t: Tensor) -> Tensor:
        return ((t - self.mean) / self.deviation).float()


class _Fitted(NamedTuple):
    critic: nn.Module
    scalers: tuple[_Scaler, _Scaler]
    held_out: tuple[Tensor, Tensor]
    best_step: int


class _Bar:
    """tqdm's progress bar, or nothing."""

    def __init__(self, steps: int, shown: bool):
        try:
            from tqdm import tqdm
        except ImportError:
            shown = False
        self._bar = tqdm(total=steps, unit="step", leave=False) if shown else None

    def __enter__(self) -> "_Bar":
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def update(self) -> None:
        if self._bar is not None:
            self._bar.update()

    def show(self, held_out: float) -> None:
        if self._bar is not None:
            self._bar.set_postfix_str(f"{held_out:.3f} nats held out")


def _batches(n: int, size: int, device: torch.device) -> Iterator[Tensor]:
    """Full batches of indices, in a new order each time round."""
    while True:
        order = torch.randperm(n).to(device)
        yield from order[: n // size * size].split(size)


def _pairs(x: Any, y: Any) -> tuple[Tensor, Tensor]:
    """float64 [n, dx] and [n, dy], on one device, finite."""
    x, y = _matrix("x", x), _matrix("y", y)
    if len(x) != len(y):
        raise ValueError(f"y: expected as many rows as x, {len(x)}, got {len(y)}; row i of both is one pair")
    validation.same_device("y", y, x.device)
    return x, y


def _from_numpy(name: str, values: Any) -> Tensor:
    """Whatever NumPy makes an array of numbers of: lists, data frames, reversed views, other byte orders."""
    if isinstance(values, np.ma.MaskedArray):
        raise TypeError(f"{name}: expected an array without a mask; drop or fill what is masked")
    try:
        array = np.asarray(values)
        return torch.from_numpy(np.array(array, dtype=complex if array.dtype.kind == "c" else float))
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name}: expected a numeric array or tensor, got {type(values).__name__}") from None


def _matrix(name: str, values: Any) -> Tensor:
    t = values.detach() if isinstance(values, Tensor) else _from_numpy(name, values)
    if t.dim() not in (1, 2) or t.is_complex():
        raise ValueError(f"{name}: expected real numbers [n] or [n, d], got {validation.describe(t)}")
    t = t.double() if t.dim() == 2 else t.double()[:, None]
    if t.shape[1] == 0 or not bool(t.isfinite().all()):
        what = (
            "at least one column" if t.shape[1] == 0 else "finite numbers, got NaN or infinity; drop or fill such rows"
        )
        raise ValueError(f"{name}: expected {what}")
    return t
