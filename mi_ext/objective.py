"""Bounds by name, as the command line takes them: "infonce", "ml_cpc:0.01", "smile:5"."""

import math
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn

from . import bounds
from .scores import Scores


class _Bound(NamedTuple):
    title: str
    function: Callable
    argument: str | None = None  # name of the number after the colon, printed with `symbol`
    symbol: str = ""
    cap: Callable[..., float] | None = None  # (K, number) → largest value in nats


def _log_ratio(n_candidates: int, alpha: float = 1.0) -> float:
    return math.log(n_candidates / alpha)


def _twice_jensen_shannon(scores: Scores) -> Tensor:
    return bounds.jensen_shannon(scores, offset=True)


_BOUNDS = {
    "infonce": _Bound("InfoNCE", bounds.infonce, cap=_log_ratio),
    "alpha_cpc": _Bound("α-CPC", bounds.alpha_cpc, "alpha", "α", cap=_log_ratio),
    "ml_cpc": _Bound("ML-CPC", bounds.ml_cpc, "alpha", "α", cap=_log_ratio),
    "nwj": _Bound("NWJ", bounds.nwj),
    "f_mine": _Bound("f-MINE", bounds.f_mine),
    "donsker_varadhan": _Bound("Donsker–Varadhan", bounds.donsker_varadhan),
    "donsker_varadhan_ema": _Bound("DV-MINE", bounds.DonskerVaradhanEMA, "momentum", "momentum"),
    "eta_dv": _Bound("η-DV", bounds.eta_dv, "eta", "η"),
    "jensen_shannon": _Bound("2·JSD", _twice_jensen_shannon, cap=lambda n_candidates: 2 * math.log(2)),
    "smile": _Bound("SMILE", bounds.smile, "tau", "τ"),
}


class Objective(nn.Module):
    """The bound that `name` stands for: `objective(scores)` is an estimate of MI in nats, 0-dim, to maximise.

    name: a function of `mi_ext.bounds`, with its number after a colon where it has one (ml_cpc:0.01 is α = 0.01), or
    donsker_varadhan_ema:0.99. jensen_shannon is 2·JSD(joint ‖ product of marginals) in nats, not MI. ValueError for an
    unknown name, or a number that is missing, superfluous or unreadable. `title` is for pictures.
    """

    def __init__(self, name: str):
        super().__init__()
        kind, _, number = name.strip().partition(":")
        if kind not in _BOUNDS:
            hint = "; tuba and interpolated need a baseline network" if kind in ("tuba", "interpolated") else ""
            raise ValueError(f"bound: expected one of {', '.join(map(usage, _BOUNDS))}, got {kind!r}{hint}")
        bound = _BOUNDS[kind]
        self.name = name.strip()
        self.arguments = _arguments(kind, number)
        is_module = isinstance(bound.function, type)
        self.bound = bound.function(*self.arguments) if is_module else bound.function
        self._call_arguments = () if is_module else self.arguments
        self._cap = bound.cap
        self.title = f"{bound.title}, {bound.symbol} = {self.arguments[0]:g}" if self.arguments else bound.title

    def forward(self, scores: Scores) -> Tensor:
        return self.bound(scores, *self._call_arguments)

    def cap(self, n_candidates: int) -> float | None:
        """The largest value with K candidates, in nats: log K, log(K/α), 2 log 2 for 2·JSD; None where unlimited."""
        return None if self._cap is None else self._cap(n_candidates, *self.arguments)


def usage(kind: str) -> str:
    """How to write a bound: "ml_cpc:ALPHA"."""
    argument = _BOUNDS[kind].argument
    return kind if argument is None else f"{kind}:{argument.upper()}"


def _arguments(kind: str, number: str) -> tuple[float, ...]:
    argument = _BOUNDS[kind].argument
    if (argument is None) != (number == ""):
        raise ValueError(f"bound: expected {usage(kind)}, got {kind}{number and ':' + number}")
    try:
        return () if argument is None else (float(number),)
    except ValueError:
        raise ValueError(f"bound: expected a number for {argument} in {usage(kind)}, got {number!r}") from None
