"""η-DV with fixed features: definition, concavity, closed forms, derivatives of both orders, errors."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from score_matrices import close, dense, dot, matrix, parts
from torch import nn

from mi_ext import DenseScores, DotScores, bounds

INF = math.inf
OMEGA = {"ridge": 0.3, "epsilon": 0.2, "fisher": 0.5, "sobolev": 0.7}


def problem(n=5, k=7, h=4, p=3, seed=0):
    """Features of joint and marginal pairs, gradients of features, weights and η."""
    g = torch.Generator().manual_seed(seed)
    shapes = {"phi_joint": (n, h), "phi_marginal": (k, h), "phi_gradient": (k, h, p), "w": (h,), "eta": ()}
    return {name: torch.randn(shape, generator=g, dtype=torch.float64) for name, shape in shapes.items()}


def by_definition(phi_joint, phi_marginal, w, eta, ridge=0.0, epsilon=0.0, fisher=0.0, sobolev=0.0, phi_gradient=None):
    value = sum(phi @ w for phi in phi_joint) / len(phi_joint) - eta + 1
    value = value - math.exp(-eta) * sum((phi @ w).exp() for phi in phi_marginal) / len(phi_marginal)
    second = [sum((phi @ w) ** 2 for phi in part) / len(part) for part in (phi_joint, phi_marginal)]
    slope = 0.0 if phi_gradient is None else sum((d.T @ w).norm() ** 2 for d in phi_gradient) / len(phi_gradient)
    return (
        value
        - ridge / 2 * (w @ w)
        - epsilon * math.exp(-eta)
        - fisher / 2 * (second[0] + second[1]) / 2
        - sobolev / 2 * slope
    )


@pytest.mark.parametrize("only", [None, *OMEGA])
def test_each_regulariser_is_subtracted(only):
    terms = problem()
    omega = OMEGA if only is None else {only: OMEGA[only]}
    close(bounds.eta_dv_convex(**terms, **omega), by_definition(**terms, **omega))


def test_without_regularisers_it_is_eta_dv_of_the_linear_critic():
    """In-batch: features of all pairs (i, j), the diagonal from the joint and the others from the marginals."""
    g = torch.Generator().manual_seed(1)
    phi, w = torch.randn(4, 4, 3, generator=g, dtype=torch.float64), torch.randn(3, generator=g, dtype=torch.float64)
    diagonal = torch.eye(4, dtype=torch.bool)
    value = bounds.eta_dv_convex(phi[diagonal], phi[~diagonal], w, 0.4)
    close(value, bounds.eta_dv(DenseScores(phi @ w), 0.4))


@pytest.mark.parametrize("epsilon", [0.0, 0.3])
def test_the_best_eta_gives_donsker_varadhan(epsilon):
    terms = problem()
    joint, marginal = terms["phi_joint"] @ terms["w"], terms["phi_marginal"] @ terms["w"]
    best = (epsilon + marginal.exp().mean()).log().requires_grad_()
    value = bounds.eta_dv_convex(**terms | {"eta": best}, epsilon=epsilon)
    close(value, joint.mean() - best)
    close(torch.autograd.grad(value, best)[0], 0.0)
    for eta in (best.item() - 0.2, best.item() + 0.2):
        assert bounds.eta_dv_convex(**terms | {"eta": eta}, epsilon=epsilon) < value


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**16), st.floats(0, 1), st.lists(st.floats(0, 2), min_size=4, max_size=4))
def test_it_is_concave_in_weights_and_eta(seed, t, coefficients):
    terms, other = problem(seed=seed), problem(seed=seed + 1)
    omega = dict(zip(OMEGA, coefficients, strict=True))

    def value(w, eta):
        return bounds.eta_dv_convex(**terms | {"w": w, "eta": eta}, **omega).item()

    ends = [(p["w"], p["eta"]) for p in (terms, other)]
    between = [t * a + (1 - t) * b for a, b in zip(*ends, strict=True)]
    chord = t * value(*ends[0]) + (1 - t) * value(*ends[1])
    assert value(*between) >= chord - 1e-9 * (1 + abs(chord))


def test_its_hessian_is_negative_definite_with_ridge_and_epsilon():
    terms = problem(n=3, k=2)

    def value(parameters):
        return bounds.eta_dv_convex(**terms | {"w": parameters[:-1], "eta": parameters[-1]}, **OMEGA)

    hessian = torch.autograd.functional.hessian(value, torch.cat([terms["w"], terms["eta"][None]]))
    assert torch.linalg.eigvalsh(hessian).max() < 0


def test_derivatives_of_both_orders():
    terms = {name: t.requires_grad_() for name, t in problem(n=3, k=2, h=2, p=2).items()}

    def value(*tensors):
        return bounds.eta_dv_convex(**dict(zip(terms, tensors, strict=True)), **OMEGA)

    assert torch.autograd.gradcheck(value, tuple(terms.values()))
    assert torch.autograd.gradgradcheck(value, tuple(terms.values()))


def test_quadratic_features_find_the_mutual_information_of_gaussians():
    """The log density ratio of correlated Gaussians is linear in 1, xy, x² and y²: the maximum is DV at the truth."""
    n, rho = 4000, 0.7
    g = torch.Generator().manual_seed(0)
    x, noise = torch.randn(2, n, generator=g, dtype=torch.float64)
    y = rho * x + math.sqrt(1 - rho**2) * noise
    joint, marginal = (torch.stack([x * z, x**2, z**2], 1) for z in (y, y.roll(1)))
    w, eta = (torch.zeros(shape, dtype=torch.float64, requires_grad=True) for shape in (3, ()))
    optimiser = torch.optim.LBFGS([w, eta], max_iter=60, line_search_fn="strong_wolfe")

    def loss():
        optimiser.zero_grad()
        loss = -bounds.eta_dv_convex(joint, marginal, w, eta, epsilon=1e-6)
        loss.backward()
        return loss

    optimiser.step(loss)
    close(-loss(), -math.log(1 - rho**2) / 2, 0.03)
    close(w / w[0], torch.tensor([1.0, -rho / 2, -rho / 2]), 0.1)


def test_results_are_at_least_float32():
    half = {name: t.bfloat16() for name, t in problem().items()}
    assert bounds.eta_dv_convex(**half, **OMEGA).dtype == torch.float32
    compiled = torch.compile(bounds.eta_dv_convex, fullgraph=True, backend="aot_eager")
    close(compiled(**problem(), **OMEGA), bounds.eta_dv_convex(**problem(), **OMEGA))


def test_large_scores_do_not_overflow():
    phi, w = torch.full((3, 1), 1e4, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    close(bounds.eta_dv_convex(phi, phi, w, 1e4), 0.0)


# Given a third variable ----------------------------------------------------------------------------------------------


def by_row(s, negative, eta):
    rows = [s[i, i] - (s[i, negative[i]] - eta[i]).exp().mean() - eta[i] + 1 for i in range(len(s))]
    return sum(rows) / len(rows)


@pytest.mark.parametrize("source", [dense, dot, "labels"])
def test_conditional_eta_dv_has_an_eta_for_each_query(source):
    s, eta = matrix(5).requires_grad_(), torch.linspace(-1, 1, 5, dtype=torch.float64).requires_grad_()
    negative = ~torch.eye(5, dtype=torch.bool)
    if source == "labels":  # the same label: another z, not drawn from p(y | z)
        row, column = torch.tensor([0, 0, 1, 1, 2]), torch.tensor([1, 1, 0, 5, 0])
        scores = DotScores(s, torch.eye(5, dtype=torch.float64), labels=(row, column))
        negative = negative & (row[:, None] != column)
    else:
        scores = source(s)
    value, expected = bounds.conditional_eta_dv(scores, eta), by_row(s, negative, eta)
    close(value, expected)
    for ours, truth in zip(*(torch.autograd.grad(t, (s, eta)) for t in (value, expected)), strict=True):
        close(ours, truth)


def test_conditional_eta_dv_with_one_eta_is_eta_dv_and_best_at_the_means_of_the_rows():
    s = matrix(6)
    close(bounds.conditional_eta_dv(dense(s), torch.full((6,), 0.3)), bounds.eta_dv(dense(s), 0.3), 1e-7)
    p, negatives = parts(s)
    best = negatives.exp().mean(1).log().requires_grad_()
    value = bounds.conditional_eta_dv(dense(s), best)
    close(value, (p - best).mean())
    close(torch.autograd.grad(value, best)[0], torch.zeros(6))


def test_conditional_eta_dv_names_what_is_wrong():
    scores = dense(matrix(3))
    with pytest.raises(ValueError, match=r"^eta: .*\(3,\).*float"):
        bounds.conditional_eta_dv(scores, 0.5)
    with pytest.raises(ValueError, match="^scores: .*0 negatives"):
        bounds.conditional_eta_dv(dense(matrix(1)), torch.zeros(1))
    with pytest.raises(ValueError, match="n = 0"):
        bounds.conditional_eta_dv(DenseScores(torch.empty(0, 4)), torch.zeros(0))


# The Sobolev penalty of any critic ------------------------------------------------------------------------------------


def curved(z, w):
    return (z * w).sin().sum(1) + z[:, 0] * z[:, 1] ** 2


def test_sobolev_penalty_follows_the_definition_and_has_a_second_derivative():
    g = torch.Generator().manual_seed(2)
    z, w = torch.randn(3, 2, generator=g, dtype=torch.float64), torch.randn(2, generator=g, dtype=torch.float64)
    by_hand = w * (z * w).cos() + torch.stack([z[:, 1] ** 2, 2 * z[:, 0] * z[:, 1]], 1)
    close(bounds.sobolev_penalty(lambda z: curved(z, w), z), by_hand.square().sum(1).mean() / 2)
    leaves = z.requires_grad_(), w.requires_grad_()

    def penalty(z, w):
        return bounds.sobolev_penalty(lambda z: curved(z, w), z)

    assert torch.autograd.gradcheck(penalty, leaves)
    assert torch.autograd.gradgradcheck(penalty, leaves)


def test_sobolev_penalty_of_a_linear_critic_is_that_of_eta_dv_convex():
    def features(z):
        return torch.stack([z[0] * z[1], z[0].sin(), z[1] ** 3])

    terms = problem(h=3)
    pairs = torch.randn(6, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    terms["phi_gradient"] = torch.func.vmap(torch.func.jacrev(features))(pairs)
    plain, less = (bounds.eta_dv_convex(**terms, sobolev=c) for c in (0.0, 0.6))
    close(plain - less, 0.6 * bounds.sobolev_penalty(lambda z: torch.func.vmap(features)(z) @ terms["w"], pairs))


def test_sobolev_penalty_takes_gradients_with_respect_to_both_sides_and_trains_a_network():
    network = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    g = torch.Generator().manual_seed(4)
    x, y = torch.randn(2, 5, 2, generator=g, dtype=torch.float64)
    penalty = bounds.sobolev_penalty(lambda x, y: network(torch.cat([x, y], 1)), x, y)
    close(penalty, bounds.sobolev_penalty(network, torch.cat([x, y], 1)))
    penalty.backward()
    assert network[0].weight.grad.abs().sum() > 0 and x.grad is None
    with torch.no_grad():
        assert not bounds.sobolev_penalty(network, torch.cat([x, y], 1)).requires_grad
    close(bounds.sobolev_penalty(lambda x, y: x.sum(1), x, y), 1.0)  # y takes no part: slope (1, 1, 0, 0)


class Penalty(nn.Module):
    """Of a critic with layers whose derivatives use what they gave, and what they took."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        layers = nn.Linear(4, 5), nn.Tanh(), nn.LayerNorm(5), nn.Softplus(), nn.Linear(5, 1, bias=False)
        self.network = nn.Sequential(*layers).double()

    def forward(self, x, y):
        return bounds.sobolev_penalty(lambda x, y: self.network(torch.cat([x, y], 1)), x, y)


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad])
def test_an_exported_sobolev_penalty_has_its_second_derivatives(mode):
    """For any n, in the network and in both sides, whatever the example inputs asked for."""
    penalty, size = Penalty(), torch.export.Dim("n", min=3, max=60)
    with mode():
        program = torch.export.export(penalty, pairs_of(8), dynamic_shapes=({0: size}, {0: size})).module()

    def value_and_gradients(f):
        x, y = (t.requires_grad_() for t in pairs_of(7))
        value = f(x, y)
        return value, *torch.autograd.grad(value, (x, y, *f.parameters()))

    for a, b in zip(*map(value_and_gradients, (penalty, program)), strict=True):
        close(a, b)


def pairs_of(n):
    return tuple(torch.randn(2, n, 2, generator=torch.Generator().manual_seed(n), dtype=torch.float64).unbind())


def test_strict_export_of_the_sobolev_penalty_is_an_error_that_says_what_to_do():
    with pytest.raises(Exception, match="export without"):
        torch.export.export(Penalty(), pairs_of(8), strict=True)


TERMS = problem()
BAD = {
    "ridge": ({"ridge": -0.1}, ValueError, "^ridge: .*got -0.1"),
    "epsilon": ({"epsilon": INF}, ValueError, "^epsilon: "),
    "fisher": ({"fisher": math.nan}, ValueError, "^fisher: "),
    "sobolev": ({"sobolev": -1.0}, ValueError, "^sobolev: "),
    "no gradient": ({"sobolev": 1.0, "phi_gradient": None}, ValueError, r"^phi_gradient: .*\[g, 4, p\]"),
    "gradient": ({"sobolev": 1.0, "phi_gradient": torch.zeros(7, 3, 2)}, ValueError, r"^phi_gradient: .*\(7, 3, 2\)"),
    "no gradients": ({"sobolev": 1.0, "phi_gradient": torch.zeros(0, 4, 2)}, ValueError, "^phi_gradient: .*0 pairs"),
    "joint": ({"phi_joint": torch.zeros(0, 4)}, ValueError, "^phi_joint: .*0 pairs"),
    "marginal": ({"phi_marginal": torch.zeros(0, 4)}, ValueError, "^phi_marginal: .*0 pairs"),
    "features": ({"phi_marginal": torch.zeros(2, 3)}, ValueError, r"^phi_marginal: .*4 features.*\(2, 3\)"),
    "integers": ({"phi_joint": torch.zeros(2, 4).long()}, TypeError, "^phi_joint: .*int64"),
    "w": ({"w": torch.zeros(3)}, ValueError, r"^w: .*\(4,\).*\(3,\)"),
    "eta": ({"eta": torch.zeros(2)}, ValueError, r"^eta: .*\(2,\)"),
    "eta nan": ({"eta": math.nan}, ValueError, "^eta: "),
}


@pytest.mark.parametrize("name", BAD)
def test_errors_name_the_argument(name):
    change, kind, message = BAD[name]
    with pytest.raises(kind, match=message):
        bounds.eta_dv_convex(**TERMS | change)


def test_errors_of_the_penalty_name_the_argument():
    with pytest.raises(ValueError, match="^pairs: .*n = 0"):
        bounds.sobolev_penalty(lambda z: z.sum(1), torch.zeros(0, 2))
    with pytest.raises(ValueError, match=r"^critic: .*\(3,\).*\(3, 2\)"):
        bounds.sobolev_penalty(lambda z: z, torch.zeros(3, 2))
