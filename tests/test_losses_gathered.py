"""CRD and K-pair against straightforward torch."""

import copy
import math

import pytest
import torch
from torch.nn import functional as F

from mi_ext import GatheredScores, bounds, losses

SIZE, DIM, M, N = 40, 6, 15, 5
INDEX = torch.tensor([7, 0, 39, 12, 3])


def generator(seed):
    return torch.Generator().manual_seed(seed)


def embeddings(seed, n=N, dtype=torch.float64):
    return torch.randn(n, DIM, generator=generator(seed), dtype=torch.float64).to(dtype).requires_grad_()


def negative_index(seed):
    return torch.randint(SIZE, (N, M), generator=generator(seed))


class PlainCRD:
    """The published recipe on explicit tensors: x = e^{s/T}/Z, −1/n Σ [log x₀/(x₀ + c + ε) + Σ log c/(x_k + c + ε)]."""

    def __init__(self, module, temperature, epsilon):
        self.memory = [module.student_memory.memory.clone(), module.teacher_memory.memory.clone()]
        self.z, self.temperature, self.epsilon = [None, None], temperature, epsilon

    def __call__(self, student, teacher, index, negatives):
        v = [F.normalize(student, dim=1), F.normalize(teacher, dim=1)]
        rows = torch.cat([index[:, None], negatives], 1)
        total = 0.0
        for way in (0, 1):
            out = torch.exp(torch.einsum("nkd,nd->nk", self.memory[1 - way][rows], v[way]) / self.temperature)
            if self.z[way] is None:
                self.z[way] = out.mean().detach() * SIZE
            total = total + self.contrast(out / self.z[way])
        for way in (0, 1):
            mixed = 0.5 * self.memory[way][index] + 0.5 * v[way].detach()
            self.memory[way][index] = mixed / mixed.norm(dim=1, keepdim=True)
        return total

    def contrast(self, x):
        c = M / SIZE
        positive = (x[:, 0] / (x[:, 0] + c + self.epsilon)).log()
        negative = (c / (x[:, 1:] + c + self.epsilon)).log()
        return -(positive.sum() + negative.sum()) / len(x)


@pytest.mark.parametrize("epsilon", [0.0, 1e-7, 0.1])
def test_crd_follows_the_published_recipe_over_several_steps(epsilon):
    module = losses.CRD(SIZE, DIM, M, 0.3, epsilon=epsilon).double()
    plain = PlainCRD(module, 0.3, epsilon)
    for step in range(4):
        student, teacher, negatives = embeddings(2 * step), embeddings(2 * step + 1), negative_index(step)
        index = (INDEX + step) % SIZE
        got, expected = module(student, teacher, index, negatives), plain(student, teacher, index, negatives)
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)
        ours, theirs = (torch.autograd.grad(loss, (student, teacher)) for loss in (got, expected))
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(module.student_memory.memory, plain.memory[0])
        torch.testing.assert_close(module.teacher_memory.memory, plain.memory[1])
        torch.testing.assert_close(module.log_normalizer.exp(), torch.stack(plain.z))


def batch_normalizer(module, student, index, negatives):
    rows = torch.cat([index[:, None], negatives], 1)
    z = F.normalize(student, dim=1)
    out = torch.exp(torch.einsum("nkd,nd->nk", module.teacher_memory.memory[rows], z) / 0.3)
    return (SIZE * out.mean()).item()


def test_normalizer_as_a_moving_average():
    module = losses.CRD(SIZE, DIM, M, 0.3, normalizer="ema", normalizer_momentum=0.8).double()
    assert module.log_normalizer.isnan().all()
    z = None
    for step in range(3):
        student, teacher, negatives = embeddings(2 * step), embeddings(2 * step + 1), negative_index(step)
        now = batch_normalizer(module, student, INDEX, negatives)
        z = now if z is None else 0.8 * z + 0.2 * now
        module(student, teacher, INDEX, negatives)
        assert module.log_normalizer[0].exp().item() == pytest.approx(z, rel=1e-9)


def test_normalizer_given_and_evaluation_mode():
    given = losses.CRD(SIZE, DIM, M, 0.3, normalizer=55.0).double().eval()
    assert given.log_normalizer.tolist() == [pytest.approx(math.log(55.0))] * 2
    before = {name: t.clone() for name, t in given.state_dict().items()}
    student, teacher, negatives = embeddings(0), embeddings(1), negative_index(0)
    plain = PlainCRD(given, 0.3, 0.0)
    plain.z = [55.0, 55.0]
    torch.testing.assert_close(given(student, teacher, INDEX, negatives), plain(student, teacher, INDEX, negatives))
    assert all(torch.equal(t, before[name]) for name, t in given.state_dict().items())
    unset = losses.CRD(SIZE, DIM, M, 0.3).eval()
    assert unset(student, teacher, INDEX, negatives).isfinite() and unset.log_normalizer.isnan().all()


@pytest.mark.parametrize("normalizer,backend", [("first", "aot_eager"), ("ema", "eager")])
def test_crd_compiles_to_one_graph(normalizer, backend):
    """Whether Z is there already is decided when the graph runs, at the first step and at later ones."""
    torch._dynamo.reset()
    plain, traced = (losses.CRD(SIZE, DIM, M, 0.3, normalizer=normalizer) for _ in range(2))
    traced.load_state_dict(plain.state_dict())
    compiled = torch.compile(lambda *a: traced(*a), fullgraph=True, backend=backend)
    for step in range(3):
        arguments = embeddings(2 * step), embeddings(2 * step + 1), INDEX, negative_index(step)
        loss, expected = compiled(*arguments), plain(*arguments)
        torch.testing.assert_close(loss, expected)
        gradients, truth = (torch.autograd.grad(value, arguments[:2]) for value in (loss, expected))
        torch.testing.assert_close(gradients, truth)
        torch.testing.assert_close(traced.state_dict(), plain.state_dict())


def test_exported_crd_has_gradients():
    """Of the first batch too, whose Z is computed from the embeddings and has none."""
    module, examples = losses.CRD(SIZE, DIM, M, 0.3), (embeddings(0), embeddings(1), INDEX, negative_index(0))
    program = torch.export.export(copy.deepcopy(module), examples).module()
    for step in range(2):
        arguments = embeddings(2 * step), embeddings(2 * step + 1), INDEX, negative_index(step)
        values = [f(*arguments) for f in (program, module)]
        torch.testing.assert_close(*((value, *torch.autograd.grad(value, arguments[:2])) for value in values))


def test_crd_state_is_saved_and_loaded():
    first, second = losses.CRD(SIZE, DIM, M), losses.CRD(SIZE, DIM, M)
    arguments = embeddings(0), embeddings(1), INDEX, negative_index(0)
    first(*arguments)
    second.load_state_dict(first.state_dict())
    assert set(first.state_dict()) == {"log_normalizer", "student_memory.memory", "teacher_memory.memory"}
    assert not list(first.parameters())
    assert first(*arguments) == second(*arguments)


def test_crd_draws_negatives_by_the_generator():
    student, teacher = embeddings(0), embeddings(1)
    module = losses.CRD(SIZE, DIM, M).eval()
    a, b, c = (module(student, teacher, INDEX, generator=generator(seed)) for seed in (1, 1, 2))
    assert a == b != c
    drawn = torch.randint(SIZE, (N, M), generator=generator(1))
    assert a == module(student, teacher, INDEX, drawn)


def test_crd_trains_in_sixteen_bits_and_with_a_learned_temperature():
    temperature = torch.nn.Parameter(torch.tensor(0.2))
    module = losses.CRD(SIZE, DIM, M, temperature)
    student, teacher = embeddings(0, dtype=torch.bfloat16), embeddings(1, dtype=torch.bfloat16)
    loss = module(student, teacher, INDEX, negative_index(0))
    loss.backward()
    assert loss.dtype == torch.float32 and student.grad.dtype == teacher.grad.dtype == torch.bfloat16
    assert student.grad.isfinite().all() and temperature.grad.isfinite()


def test_crd_stats():
    module, student, teacher, negatives = losses.CRD(SIZE, DIM, M, 0.3), embeddings(0), embeddings(1), negative_index(0)
    rows = torch.cat([INDEX[:, None], negatives], 1)
    s = torch.einsum("nkd,nd->nk", module.teacher_memory.memory.double()[rows], F.normalize(student, dim=1)) / 0.3
    loss, stats = module(student, teacher, INDEX, negatives, return_stats=True)
    assert loss.requires_grad and stats["n_negatives"] == M and not stats["mi"].requires_grad
    torch.testing.assert_close(stats["mi"], (math.log(M + 1) + s[:, 0] - s.logsumexp(1)).mean().detach())
    torch.testing.assert_close(stats["log_partition"], s.logsumexp(1).detach())


def test_k_pair_in_batch_and_with_own_negatives():
    query, positive = embeddings(0), embeddings(1)
    own = torch.randn(N, 4, DIM, generator=generator(2), dtype=torch.float64).requires_grad_()
    loss = losses.KPair()
    excess = [query @ positive.T, torch.einsum("nkd,nd->nk", own, query)]
    excess = [s - (query * positive).sum(1, keepdim=True) for s in excess]
    off = ~torch.eye(N, dtype=torch.bool)
    terms = excess[0].exp()[off].reshape(N, N - 1), excess[1].exp()
    for negatives, t in zip((None, own), terms, strict=True):
        expected = torch.log(1 + t.sum(1)).mean()
        got, stats = loss(query, positive, negatives, return_stats=True)
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)
        k = t.shape[1] + 1
        torch.testing.assert_close(stats["mi"], (math.log(k) - expected).detach(), rtol=1e-9, atol=1e-9)
        inputs = [query, positive] if negatives is None else [query, positive, own]
        for a, b in zip(*(torch.autograd.grad(v, inputs, retain_graph=True) for v in (got, expected)), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


def test_k_pair_is_log_k_minus_conditional_infonce():
    query, positive, own = embeddings(0), embeddings(1), torch.randn(N, 4, DIM, dtype=torch.float64)
    scores = GatheredScores(query, negatives=own, positive=positive)
    expected = math.log(5) - bounds.conditional_infonce(scores)
    torch.testing.assert_close(losses.KPair()(query, positive, own), expected)


S, T, NEGATIVES = embeddings(0).detach(), embeddings(1).detach(), negative_index(0)
BAD = {
    "size": (lambda: losses.CRD(0, DIM), ValueError, "^size: "),
    "n_negatives": (lambda: losses.CRD(SIZE, DIM, 0), ValueError, "^n_negatives: "),
    "temperature": (lambda: losses.CRD(SIZE, DIM, temperature=0.0), ValueError, "^temperature: "),
    "normalizer": (lambda: losses.CRD(SIZE, DIM, normalizer="last"), ValueError, "^normalizer: .*'first'"),
    "normalizer 0": (lambda: losses.CRD(SIZE, DIM, normalizer=0.0), ValueError, "^normalizer: .*Z > 0"),
    "normalizer nan": (lambda: losses.CRD(SIZE, DIM, normalizer=math.nan), ValueError, "^normalizer: "),
    "ema momentum": (lambda: losses.CRD(SIZE, DIM, normalizer_momentum=1.0), ValueError, "^normalizer_momentum: "),
    "momentum": (lambda: losses.CRD(SIZE, DIM, momentum=2.0), ValueError, "^momentum: "),
    "epsilon": (lambda: losses.CRD(SIZE, DIM, epsilon=-1e-7), ValueError, "^epsilon: "),
    "teacher": (lambda: losses.CRD(SIZE, DIM)(S, T[:3], INDEX), ValueError, "^teacher: "),
    "index": (lambda: losses.CRD(SIZE, DIM)(S, T, INDEX + 1), ValueError, "^index: .*40"),
    "negative index": (lambda: losses.CRD(SIZE, DIM)(S, T, INDEX, NEGATIVES + 40), ValueError, "^negative_index: "),
    "no negatives": (lambda: losses.CRD(SIZE, DIM)(S, T, INDEX, NEGATIVES[:, :0]), ValueError, "^negative_index: "),
    "width": (lambda: losses.CRD(SIZE, DIM + 1)(S, T, INDEX, NEGATIVES), ValueError, "^student: .*7"),
    "nothing": (lambda: losses.CRD(SIZE, DIM)(S[:0], T[:0], INDEX[:0]), ValueError, "n = 0"),
    "k-pair positive": (lambda: losses.KPair()(S, T[:3]), ValueError, "^positive: "),
    "k-pair negatives": (lambda: losses.KPair()(S, T, T), ValueError, "^negatives: "),
}


@pytest.mark.parametrize("name", BAD)
def test_errors_name_the_argument(name):
    call, kind, message = BAD[name]
    with pytest.raises(kind, match=message):
        call()
