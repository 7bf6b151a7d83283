"""η-DV of a critic that is linear in its weights, with the regularisers of [ETA]."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from .. import validation
from ..log_domain import log_of, log_sum_exp


def eta_dv_convex(
    phi_joint: Tensor,
    phi_marginal: Tensor,
    w: Tensor,
    eta: float | Tensor,
    ridge: float = 0.0,
    epsilon: float = 0.0,
    *,
    fisher: float = 0.0,
    sobolev: float = 0.0,
    phi_gradient: Tensor | None = None,
) -> Tensor:
    r"""η-DV of the critic f = <w, Φ> less its regularisers Ω; concave in (w, η) together: [ETA] eqs. 10–17, 23, 24.

        mean_joint f − e^{−η} mean_marginal e^f − η + 1 − Ω
        Ω = ridge/2 ‖w‖² + epsilon e^{−η} + fisher/2 E f² + sobolev/2 E ‖∇f‖²

    phi_joint [n, h], phi_marginal [k, h]: features Φ of pairs from the joint and from the product of the marginals;
    w [h]; eta: a float or a 0-dim tensor. `epsilon` bounds the best η from below. E f² is ½ (mean_joint f² +
    mean_marginal f²). phi_gradient [g, h, p]: the gradients of all h features at g pairs of p numbers, the samples of
    the measure over which E ‖∇f‖² = mean ‖wᵀ ∇Φ‖² is taken, for example
    torch.func.vmap(torch.func.jacrev(features))(pairs). For a critic that is not linear subtract `sobolev_penalty`.

    Nats, to maximise over w and η. Best is η = log(epsilon + mean_marginal e^f), with the value mean_joint f − η less
    the other regularisers: `donsker_varadhan` if there are none. Differentiable twice. TypeError or ValueError by
    argument; among them no pairs, a negative coefficient, and sobolev > 0 without phi_gradient.
    """
    _check_features(phi_joint, phi_marginal, w)
    validation.scalar("eta", eta)
    for name, factor in {"ridge": ridge, "epsilon": epsilon, "fisher": fisher, "sobolev": sobolev}.items():
        if not 0 <= factor < math.inf:
            raise ValueError(f"{name}: expected a finite number ≥ 0, where the problem is concave, got {factor}")
    weights = w.double()
    joint, marginal = phi_joint.double() @ weights, phi_marginal.double() @ weights
    shift = torch.as_tensor(eta, dtype=torch.float64, device=w.device)
    log_mean = log_sum_exp(marginal) - log_of(marginal.shape[0])
    value = joint.mean() - (log_mean - shift).exp() - shift + 1
    omega: Tensor = ridge / 2 * weights.square().sum() + epsilon * (-shift).exp()
    if fisher > 0:
        omega = omega + fisher / 4 * (joint.square().mean() + marginal.square().mean())
    if sobolev > 0:
        phi_gradient = _checked_gradient(phi_gradient, w)
        omega = omega + sobolev / 2 * torch.einsum("ghp,h->gp", phi_gradient.double(), weights).square().sum(1).mean()
    wide = torch.promote_types(w.dtype, torch.float32)
    return (value - omega).to(torch.promote_types(phi_joint.dtype, wide))


def sobolev_penalty(critic: Callable[..., Tensor], *pairs: Tensor) -> Tensor:
    r"""½ mean_i ‖∇f(z_i)‖², the Sobolev regulariser of any critic, to subtract from a bound; [ETA] eqs. 23, 24.

    critic(*pairs) gives f, [n] or [n, 1], f_i of row i of each tensor of `pairs` [n, …] alone (a layer such as batch
    normalisation, which mixes rows, would give a wrong gradient); the norm is over all of them. Where gradients are
    recorded the result is differentiable again, in the critic's parameters and in `pairs`, and so is its graph of
    torch.export (not with strict=True: NotImplementedError). ValueError for n = 0 or another number of values. Nats, to
    subtract.
    """
    n = pairs[0].shape[0]
    if n == 0:
        raise ValueError("pairs: the mean over n = 0 pairs is undefined; pass at least one pair")

    def total(*inputs: Tensor) -> Tensor:
        values = critic(*inputs)
        if values.numel() != n:
            raise ValueError(f"critic: expected one value a pair, shape ({n},), got {tuple(values.shape)}")
        return values.sum()

    gradients = _gradients(total, pairs)
    return torch.stack([g.square().sum() for g in gradients]).sum() / (2 * n)


def _gradients(function: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> Sequence[Tensor]:
    """By torch.func where torch traces or transforms, else by autograd, which a checkpoint can compute again."""
    if torch.compiler.is_compiling() or torch._C._functorch.maybe_current_level() is not None:
        gradients = torch.func.grad(function, tuple(range(len(inputs))))
        return (_as_operations(gradients, inputs) if torch.compiler.is_exporting() else gradients)(*inputs)
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        inputs = tuple(z if z.requires_grad else z.detach().requires_grad_() for z in inputs)
        value = function(*inputs)
        return torch.autograd.grad(value, inputs, create_graph=create_graph, allow_unused=True, materialize_grads=True)


def _as_operations(function: Callable[..., Any], inputs: tuple[Tensor, ...]) -> Callable[..., Any]:
    """The operations of torch.func, differentiable again: torch.export sees none in there and would keep a constant."""
    if torch.compiler.is_dynamo_compiling():
        raise NotImplementedError("sobolev_penalty: torch.export with strict=True cannot trace it; export without")
    with torch._C.DisableTorchFunction():  # by which the exporter would watch
        return make_fx(function)(*inputs)


def _check_features(phi_joint: Tensor, phi_marginal: Tensor, w: Tensor) -> None:
    for name, phi, shape in (("phi_joint", phi_joint, "[n, h]"), ("phi_marginal", phi_marginal, "[k, h]")):
        validation.floating_matrix(name, phi, shape)
        if phi.shape[0] == 0:
            raise ValueError(f"{name}: the mean over 0 pairs is undefined; pass at least one pair")
    h = phi_joint.shape[1]
    if phi_marginal.shape[1] != h:
        raise ValueError(f"phi_marginal: expected the {h} features of phi_joint, got shape {tuple(phi_marginal.shape)}")
    if not isinstance(w, Tensor) or w.shape != (h,):
        raise ValueError(f"w: expected one weight a feature, shape ({h},), got {validation.describe(w)}")


def _checked_gradient(phi_gradient: Tensor | None, w: Tensor) -> Tensor:
    if not isinstance(phi_gradient, Tensor) or phi_gradient.dim() != 3 or phi_gradient.shape[1] != w.shape[0]:
        raise ValueError(
            f"phi_gradient: sobolev > 0 needs the gradients of the features, shape [g, {w.shape[0]}, p], got "
            f"{validation.describe(phi_gradient)}"
        )
    if phi_gradient.shape[0] == 0:
        raise ValueError("phi_gradient: the mean over 0 pairs is undefined; pass at least one pair")
    return phi_gradient
