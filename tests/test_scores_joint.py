"""JointScores: every quantity and bound against DenseScores of the explicit matrix, what is kept, errors."""

import json
import subprocess
import sys
import textwrap

import pytest
import torch

from mi_ext import DenseScores, JointScores, bounds, critics

INF = float("inf")
pytestmark = pytest.mark.usefixtures("one_thread")
LAYERS = pytest.mark.parametrize("layers", [1, 2], ids=["one layer", "two layers"])


def problem(layers, n=7, m=7, dtype=torch.float64, hidden=19):
    torch.manual_seed(3)
    critic = critics.Joint(4, 3, hidden, layers).to(dtype)
    return (
        critic,
        torch.randn(n, 4, dtype=dtype, requires_grad=True),
        torch.randn(m, 3, dtype=dtype, requires_grad=True),
    )


def matrix(critic, x, y):
    """The network on every concatenated pair."""
    pairs = torch.cat([x[:, None].expand(-1, len(y), -1), y.expand(len(x), -1, -1)], 2)
    network = torch.nn.Sequential(*[part for linear in critic.linears for part in (linear, torch.nn.ReLU())][:-1])
    return network(pairs).squeeze(2)


LOG_A = torch.linspace(-0.5, 0.5, 7, dtype=torch.float64)
QUANTITIES = {
    "positive": lambda s: s.positive,
    "negative_lse": lambda s: s.negative_lse,
    "column_negative_lse": lambda s: s.column_negative_lse,
    "both": lambda s: s.column_negative_lse + s.negative_lse + s.positive,
    "column_block": lambda s: s.column_block(1, 4),
    "shuffled": lambda s: s.shuffled(torch.arange(7) // 2),
    "negative_softplus_sum": lambda s: s.negative_softplus_sum(),
    "clipped": lambda s: s.clipped_log_partition(0.3) + 0 * s.positive.sum(),
    "cross_entropy": lambda s: s.cross_entropy(),
    "cross_entropy sum": lambda s: s.cross_entropy(0.3, -0.2, "sum"),
    "cross_entropy none": lambda s: s.cross_entropy(0.3, -0.2, "none"),
    "cross_entropy tensors": lambda s: s.cross_entropy(LOG_A, torch.tensor(0.1)),
    "cross_entropy decoupled": lambda s: s.cross_entropy(-INF),
    "log_partition": lambda s: s.log_partition(0.1, 0.2, "mean"),
    "log_partition lse": lambda s: s.log_partition(0.1, 0.2, "lse"),
    "log_partition lse, then positive": lambda s: s.log_partition(0.1, 0.2, "lse") - s.positive.mean(),
    "infonce": bounds.infonce,
    "alpha_cpc": lambda s: bounds.alpha_cpc(s, 1.7),
    "ml_cpc": lambda s: bounds.ml_cpc(s, 0.6),
    "nwj": bounds.nwj,
    "f_mine": bounds.f_mine,
    "dv": bounds.donsker_varadhan,
    "dv all": lambda s: bounds.donsker_varadhan(s, "all"),
    "dv shuffled": lambda s: bounds.donsker_varadhan(s, "shuffled", torch.Generator().manual_seed(1)),
    "dv ema": lambda s: bounds.DonskerVaradhanEMA(0.9)(s),
    "eta_dv": lambda s: bounds.eta_dv(s, 0.4),
    "tuba": lambda s: bounds.tuba(s, LOG_A),
    "interpolated": lambda s: bounds.interpolated(s, 0.3, LOG_A),
    "jensen_shannon": bounds.jensen_shannon,
    "smile": lambda s: bounds.smile(s, 0.2),
}


def with_gradients(quantity, scores, inputs):
    value = QUANTITIES[quantity](scores)
    upstream = torch.linspace(0.5, 1.5, value.numel(), dtype=torch.float64).reshape(value.shape)
    return [value, *torch.autograd.grad((value * upstream).sum(), inputs, allow_unused=True, materialize_grads=True)]


@pytest.mark.parametrize("quantity", QUANTITIES)
@LAYERS
def test_agrees_with_the_explicit_matrix(quantity, layers):
    critic, x, y = problem(layers)
    inputs = [x, y, *critic.parameters()]
    ours, dense = (with_gradients(quantity, s, inputs) for s in (critic(x, y), DenseScores(matrix(critic, x, y))))
    for a, b in zip(ours, dense, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("quantity", ["positive", "cross_entropy sum", "log_partition lse", "column_negative_lse"])
@LAYERS
def test_given_targets(quantity, layers):
    critic, x, y = problem(layers, n=4, m=6)
    target, inputs = torch.tensor([5, 0, 0, 3]), [x, y, *critic.parameters()]
    ours = with_gradients(quantity, critic(x, y, target), inputs)
    for a, b in zip(ours, with_gradients(quantity, DenseScores(matrix(critic, x, y), target), inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@LAYERS
def test_labels_and_log_weights(layers):
    critic, x, y = problem(layers)
    labels, v = (torch.arange(7) % 3, torch.arange(7) % 4), torch.linspace(-1, 1, 7, dtype=torch.float64)
    v[2] = -INF
    scores, s = critic(x, y, labels=labels, candidate_log_weight=v), matrix(critic, x, y)
    negative = (labels[0][:, None] != labels[1]) & ~torch.eye(7, dtype=torch.bool) & (v > -INF)
    weight = negative * v.exp()
    torch.testing.assert_close(scores.negative_lse, (weight * s.exp()).sum(1).log(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(scores.negative_softplus_sum(), (weight * (1 + s.exp()).log()).sum(), rtol=1e-9, atol=0)
    torch.testing.assert_close(torch.as_tensor(scores.negative_mass), weight.sum())


BESIDE = [
    "positive",
    "negative_lse",
    "negative_softplus_sum",
    "cross_entropy none",
    "cross_entropy",
    "log_partition lse",
]
BESIDE += ["infonce", "ml_cpc", "nwj", "smile", "clipped"]


@pytest.mark.parametrize("quantity", BESIDE)
@LAYERS
def test_positives_beside_the_candidates(quantity, layers):
    """As a first column that is nobody's negative; fewer candidates than queries are no error then."""
    critic, x, y = problem(layers, m=5)
    positive = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    inputs = [x, y, positive, *critic.parameters()]
    scores = critic(x, y, positive=positive)
    assert (scores.n_candidates, scores.n_negatives, scores.target) == (6, 5, None)
    own = matrix(critic, x, positive).diagonal()[:, None]
    dense = DenseScores(torch.cat([own, matrix(critic, x, y)], 1), torch.zeros(7, dtype=torch.int64))
    for a, b in zip(*(with_gradients(quantity, s, inputs) for s in (scores, dense)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@LAYERS
def test_ranks_of_positives_beside_the_candidates(layers):
    critic, x, y = problem(layers, m=30)
    positive = torch.randn(7, 3, dtype=torch.float64)
    s, own = matrix(critic, x, y), matrix(critic, x, positive).diagonal()[:, None]
    labels, v = (torch.arange(7) % 3, torch.arange(30) % 4), torch.linspace(-1, 1, 30, dtype=torch.float64)
    v[2] = -INF
    for options, taken in (({}, 0), ({"labels": labels, "candidate_log_weight": v}, v)):
        negative = (labels[0][:, None] != labels[1]) & (v > -INF) if options else torch.ones(7, 30, dtype=torch.bool)
        rank, entropy = critic(x, y, positive=positive, **options).ranking()
        assert torch.equal(rank, ((s >= own) & negative).sum(1)) and len(rank.unique()) > 2
        weights = (s + taken).masked_fill(~negative, -INF).softmax(1)
        torch.testing.assert_close(entropy, torch.special.entr(weights).sum(1).detach(), rtol=1e-9, atol=1e-9)


@LAYERS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_short_inputs_compute_in_float32(layers, dtype):
    critic, x, y = problem(layers, dtype=dtype)
    value = bounds.infonce(critic(x, y))
    assert value.dtype == torch.float32
    value.backward()
    assert all(t.grad.dtype == dtype and t.grad.isfinite().all() for t in (x, *critic.parameters()))
    exact = bounds.infonce(DenseScores(matrix(critic.double(), x.double(), y.double())))
    torch.testing.assert_close(value.double(), exact, rtol=0, atol=1e-5)


@LAYERS
def test_mixed_dtypes_are_promoted(layers):
    critic, x, y = problem(layers, dtype=torch.float32)
    assert critic(x.double(), y).positive.dtype == torch.float64
    assert critic(x.bfloat16(), y).positive.dtype == torch.float32


@LAYERS
def test_second_derivative_is_an_error_by_name(layers):
    critic, x, y = problem(layers)
    (gradient,) = torch.autograd.grad(bounds.infonce(critic(x, y)), x, create_graph=True)
    with pytest.raises(RuntimeError, match="JointScores has no second derivative"):
        gradient.square().sum().backward()


BOUNDS = {
    "infonce": bounds.infonce,
    "ml_cpc": lambda s: bounds.ml_cpc(s, 0.5),
    "nwj": bounds.nwj,
    "jensen_shannon": bounds.jensen_shannon,
    "smile": lambda s: bounds.smile(s, 1.0),
    "tuba": lambda s: bounds.tuba(s, torch.zeros(s.n_queries)),
}


@LAYERS
@pytest.mark.parametrize("name", BOUNDS)
def test_compile(name, layers):
    """One graph without a break, traced with its backward pass."""
    torch._dynamo.reset()
    critic, x, y = problem(layers, dtype=torch.float32)

    def objective(x, y):
        return BOUNDS[name](critic(x, y))

    inputs = [x, y, *critic.parameters()]
    compiled = torch.compile(objective, fullgraph=True, backend="aot_eager")
    values = [f(x, y) for f in (compiled, objective)]
    torch.testing.assert_close(*values, rtol=1e-5, atol=1e-6)
    gradients = [torch.autograd.grad(v, inputs, allow_unused=True, materialize_grads=True) for v in values]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_merging_and_order_of_candidates():
    critic, x, y = problem(2, n=5, m=11)
    order = torch.randperm(11, generator=torch.Generator().manual_seed(0))
    moved = torch.argsort(order)[:5]
    base, permuted = critic(x, y), critic(x, y[order], moved)
    torch.testing.assert_close(permuted.cross_entropy(), base.cross_entropy(), rtol=1e-10, atol=0)
    torch.testing.assert_close(permuted.column_negative_lse, base.column_negative_lse[order], rtol=1e-10, atol=0)


BAD = {
    "critic": (lambda c, x, y: JointScores(x, y, torch.nn.Linear(3, 3)), TypeError, "^critic: .*got Linear"),
    "width of y": (lambda c, x, y: c(x, x), ValueError, "^y: .*width 3"),
    "dtype": (lambda c, x, y: c(x.long(), y), TypeError, "^x: .*int64"),
    "few candidates": (lambda c, x, y: c(x, y[:3]), ValueError, "^target: .*m = 3"),
    "target": (lambda c, x, y: c(x, y, torch.full((7,), 9)), ValueError, "^target: .*9"),
    "positive": (lambda c, x, y: c(x, y, positive=x), ValueError, "^positive: .*width 3"),
    "positives": (lambda c, x, y: c(x, y, positive=y[:6]), ValueError, "^positive: .*7 queries"),
    "both": (lambda c, x, y: c(x, y, torch.arange(7), positive=y), ValueError, "^target, positive: "),
    "labels": (lambda c, x, y: c(x, y, labels=torch.zeros(7)), TypeError, "^labels: "),
    "log-weight": (lambda c, x, y: c(x, y, candidate_log_weight=torch.zeros(3)), ValueError, "^candidate_log_weight: "),
    "no queries": (lambda c, x, y: bounds.infonce(c(x[:0], y)), ValueError, "n = 0"),
}


@pytest.mark.parametrize("name", BAD)
def test_errors_name_the_argument(name):
    call, kind, message = BAD[name]
    with pytest.raises(kind, match=message):
        call(*problem(1))


@LAYERS
@pytest.mark.parametrize("name", ["infonce", "nwj", "jensen_shannon", "negative_lse"])
def test_saved_for_backward(name, layers):
    """Vectors, a, b, the parameters and their gradients: nothing n×m."""
    n, hidden, saved = 1500, 32, {}
    critic, x, y = problem(layers, n, n, torch.float32, hidden)

    def pack(t):
        saved[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        QUANTITIES[name](critic(x, y))
    assert 0 < sum(saved.values()) <= 12 * 2 * n * hidden * 4 < n * n * 4


SCRIPT = """
import json, torch
from mi_ext import bounds, critics

torch.set_num_threads(2)

def status(key):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))

def step(n):
    x, y = torch.randn(n, 8), torch.randn(n, 8)
    before = status("VmRSS")
    with open("/proc/self/clear_refs", "w") as reset:
        reset.write("5")
    objective(critics.Joint(8, 8, {hidden}, {layers})(x, y)).backward()
    return status("VmHWM") - before

objective = {objective}
step(32)
print(json.dumps(step({n})))
"""


@LAYERS
@pytest.mark.parametrize("objective", ["bounds.infonce", "bounds.nwj", "bounds.jensen_shannon"])
def test_peak_memory(objective, layers):
    """A matrix of scores would need n² floats, the hidden units h times that."""
    n, hidden = (4096, 16) if layers == 1 else (1500, 16)
    script = textwrap.dedent(SCRIPT)
    for name, value in {"objective": objective, "n": n, "hidden": hidden, "layers": layers}.items():
        script = script.replace(f"{{{name}}}", str(value))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) <= n * n * 4 * (0.3 if layers == 1 else 1)
