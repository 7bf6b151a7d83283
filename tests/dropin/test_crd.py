"""`mi_ext.dropin.crd` beside the formulas, written out: RepDistiller is on no package index."""

import copy
import math
from types import SimpleNamespace

import pytest
import torch
from side_by_side import largest, parameters, saved_bytes
from torch import nn

from mi_ext import losses
from mi_ext.dropin.crd import ContrastLoss, ContrastMemory, CRDLoss, Embed

pytestmark = pytest.mark.usefixtures("one_thread")
N_DATA, DIM, K = 20, 6, 5


def options(**changes):
    return SimpleNamespace(
        **(
            {"s_dim": 4, "t_dim": 7, "feat_dim": DIM, "n_data": N_DATA, "nce_k": K, "nce_t": 0.07, "nce_m": 0.5}
            | changes
        )
    )


class Written:
    """The dense computation: likelihoods of both ways, their Z, memories after the step."""

    def __init__(self, memory: ContrastMemory):
        self.memories = memory.memory_v1.clone(), memory.memory_v2.clone()
        self.K, self.T, *self.Z, self.momentum = memory.params.tolist()

    def likelihoods(self, v1, v2, y, idx):
        outs = []
        for way, (v, bank) in enumerate(((v1, self.memories[1]), (v2, self.memories[0]))):
            e = torch.exp(torch.einsum("nd,nkd->nk", v, bank[idx]) / self.T)
            if self.Z[way] < 0:
                self.Z[way] = e.mean().item() * N_DATA
            outs.append(e[:, :, None] / self.Z[way])
        for bank, v in zip(self.memories, (v1, v2), strict=True):
            mixed = self.momentum * bank[y] + (1 - self.momentum) * v.detach()
            bank[y] = mixed / mixed.norm(dim=1, keepdim=True)
        return outs


def written_loss(x):
    c, epsilon = (x.shape[1] - 1) / N_DATA, 1e-7
    x = x.squeeze(2)
    log_d1 = torch.log(x[:, :1] / (x[:, :1] + c + epsilon))
    log_d0 = torch.log(c / (x[:, 1:] + c + epsilon))
    return -(log_d1.sum() + log_d0.sum()).reshape(1) / len(x)


def batch(n=4, seed=0):
    g = torch.Generator().manual_seed(seed)
    y = torch.randperm(N_DATA, generator=g)[:n]
    idx = torch.randint(N_DATA, (n, K + 1), generator=g)
    idx[:, 0] = y
    v1, v2 = nn.functional.normalize(torch.randn(2, n, DIM, generator=g, dtype=torch.float64), dim=2)
    return v1.requires_grad_(), v2.requires_grad_(), y, idx


def close(ours, truth, tolerance=1e-9):
    torch.testing.assert_close(ours, truth, rtol=tolerance, atol=tolerance)


def memory(**kw) -> ContrastMemory:
    torch.manual_seed(0)
    return ContrastMemory(DIM, N_DATA, K, **kw).double()


def test_memory_over_several_steps():
    """Values, gradients taken after the update, Z, banks."""
    ours = memory(T=0.3, momentum=0.7)
    written = Written(ours)
    for step in range(4):
        v1, v2, y, idx = batch(seed=step)
        outs, expected = ours(v1, v2, y, idx), written.likelihoods(v1, v2, y, idx)
        weights = torch.randn(2, 4, K + 1, 1, dtype=torch.float64)
        gradients = [
            torch.autograd.grad(sum((w * o).sum() for w, o in zip(weights, out, strict=True)), (v1, v2))
            for out in (outs, expected)
        ]
        for a, b in zip((*outs, *gradients[0]), (*expected, *gradients[1]), strict=True):
            close(a, b)
        for bank, b in zip((ours.memory_v1, ours.memory_v2), written.memories, strict=True):
            close(bank, b)
        close(ours.params, torch.tensor([K, written.T, *written.Z, written.momentum], dtype=torch.float64))


def test_second_derivative_of_the_likelihoods():
    ours = memory(T=1.0)
    v1, v2, y, idx = batch(2)
    ours.params[2:4] = 10.0

    def likelihoods(v1, v2):
        ours.memory_v1.copy_(start[0])
        ours.memory_v2.copy_(start[1])
        return ours(v1, v2, y, idx)

    start = ours.memory_v1.clone(), ours.memory_v2.clone()
    torch.autograd.gradcheck(likelihoods, (v1, v2))
    torch.autograd.gradgradcheck(likelihoods, (v1, v2))


def test_criterion():
    x = torch.rand(4, K + 1, 1, dtype=torch.float64, requires_grad=True)
    ours, truth = ContrastLoss(N_DATA)(x), written_loss(x)
    assert ours.shape == (1,)
    close(ours, truth)
    close(*(torch.autograd.grad(loss, x)[0] for loss in (ours, truth)))


@pytest.mark.parametrize("changes", [{}, {"nce_t": 0.5, "nce_m": 0.9}, {"nce_k": 1}], ids=str)
def test_loss_over_several_steps(changes):
    """Streamed, beside the dense formula on the same weights: value, every gradient, Z, banks."""
    torch.manual_seed(0)
    ours = CRDLoss(options(**changes)).double()
    written = Written(ours.contrast)
    for step in range(3):
        *_, y, idx = batch(seed=step)
        idx = idx[:, : ours.contrast.K + 1]
        f_s, f_t = (torch.randn(4, *shape, dtype=torch.float64, requires_grad=True) for shape in ((4,), (7, 1)))
        loss = ours(f_s, f_t, y, idx)
        truth = sum(map(written_loss, written.likelihoods(ours.embed_s(f_s), ours.embed_t(f_t), y, idx)))
        assert loss.shape == (1,) and loss.dtype == torch.float64
        leaves = f_s, f_t, *ours.parameters()
        found = [torch.autograd.grad(value, leaves) for value in (loss, truth)]
        for a, b in zip((loss, *found[0]), (truth, *found[1]), strict=True):
            close(a, b)
        close(ours.contrast.memory_v1, written.memories[0])
        close(ours.contrast.memory_v2, written.memories[1])
        close(ours.contrast.params[2:4], torch.tensor(written.Z, dtype=torch.float64))


def test_loss_is_the_criterion_of_the_memory_s_likelihoods():
    torch.manual_seed(0)
    ours = CRDLoss(options()).double()
    apart = CRDLoss(options()).double()
    apart.load_state_dict(ours.state_dict())
    *_, y, idx = batch()
    f_s, f_t = torch.randn(4, 4, dtype=torch.float64), torch.randn(4, 7, dtype=torch.float64)
    out_s, out_t = apart.contrast(apart.embed_s(f_s), apart.embed_t(f_t), y, idx)
    close(ours(f_s, f_t, y, idx), apart.criterion_s(out_s) + apart.criterion_t(out_t))
    for a, b in zip(ours.state_dict().values(), apart.state_dict().values(), strict=True):
        close(a, b)


def test_loss_is_the_streamed_one():
    """`losses.CRD` with epsilon = 1e-7."""
    torch.manual_seed(0)
    ours = CRDLoss(options()).double()
    theirs = losses.CRD(N_DATA, DIM, K, temperature=ours.contrast.temperature, epsilon=1e-7).double()
    theirs.student_memory.memory.copy_(ours.contrast.memory_v1)
    theirs.teacher_memory.memory.copy_(ours.contrast.memory_v2)
    *_, y, idx = batch()
    f_s, f_t = torch.randn(4, 4, dtype=torch.float64), torch.randn(4, 7, dtype=torch.float64)
    close(theirs(ours.embed_s(f_s), ours.embed_t(f_t), y, idx[:, 1:]).reshape(1), ours(f_s, f_t, y, idx))


def test_contract():
    """Names, shapes, defaults and starting values of what is saved."""
    loss = CRDLoss(options())
    expected = {
        "embed_s.linear.weight": (DIM, 4),
        "embed_s.linear.bias": (DIM,),
        "embed_t.linear.weight": (DIM, 7),
        "embed_t.linear.bias": (DIM,),
        "contrast.params": (5,),
        "contrast.memory_v1": (N_DATA, DIM),
        "contrast.memory_v2": (N_DATA, DIM),
    }
    assert {k: tuple(t.shape) for k, t in loss.state_dict().items()} == expected
    assert [name for name, _ in loss.named_children()] == [
        "embed_s",
        "embed_t",
        "contrast",
        "criterion_t",
        "criterion_s",
    ]
    assert [p[0] for p in parameters(ContrastMemory)] == ["inputSize", "outputSize", "K", "T", "momentum"]
    assert [p[2] for p in parameters(ContrastMemory)[3:]] == [0.07, 0.5]
    assert [p[2] for p in parameters(Embed)] == [1024, 128]
    close(ContrastMemory(DIM, N_DATA, K).params, torch.tensor([K, 0.07, -1, -1, 0.5]))
    bank = ContrastMemory(64, 500, 3).memory_v2
    assert math.sqrt(3 / 64) * 0.98 < bank.abs().max() <= math.sqrt(3 / 64)
    torch.testing.assert_close(bank.norm(dim=1).mean().item(), 1.0, rtol=0.02, atol=0)


def test_negatives_are_drawn_uniformly_when_none_are_given():
    torch.manual_seed(0)
    ours = ContrastMemory(DIM, N_DATA, 2000)
    y = torch.tensor([3, 7])
    rows = ours.rows(y, None)
    assert rows.shape == (2, 2001) and rows[:, 0].tolist() == [3, 7]
    share = rows[:, 1:].flatten().bincount(minlength=N_DATA) / 4000
    assert (share - 1 / N_DATA).abs().max() < 0.015
    outs = ours(*nn.functional.normalize(torch.randn(2, 2, DIM), dim=2), y)
    assert [out.shape for out in outs] == [(2, 2001, 1)] * 2
    loss = CRDLoss(options())(torch.randn(2, 4), torch.randn(2, 7, 1, 1), y)
    assert loss.shape == (1,) and loss.isfinite().all()


def test_a_loaded_state_says_how_many_negatives_are_drawn():
    saved, ours = CRDLoss(options(nce_k=11)), CRDLoss(options(nce_k=3))
    ours.load_state_dict(saved.state_dict())
    y = torch.tensor([3, 7])
    assert ours.contrast.rows(y, None).shape == (2, 12)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        drawn = ours.contrast.rows(y, None)
    f_s, f_t = torch.randn(2, 4), torch.randn(2, 7)
    torch.manual_seed(1)
    torch.testing.assert_close(ours(f_s, f_t, y), saved(f_s, f_t, y, drawn))


def test_what_is_kept():
    """The loss: nothing with n·K numbers; the likelihoods: no n·K vectors."""
    n, k, size, width = 64, 4096, 2000, 32
    x = nn.functional.normalize(torch.randn(2, n, width), dim=2).requires_grad_()
    y, idx = torch.arange(n), torch.randint(size, (n, k + 1))
    idx[:, 0] = y
    likelihoods = ContrastMemory(width, size, k)
    assert largest(lambda: likelihoods(*x, y, idx)) <= n * (k + 1)  # the likelihoods
    assert 0 < saved_bytes(lambda: likelihoods(*x, y, idx)) <= 4 * n * (k + 1) * 8 + 2 * size * width * 4
    loss = CRDLoss(options(s_dim=width, t_dim=width, feat_dim=width, n_data=size, nce_k=k))
    assert 0 < saved_bytes(lambda: loss(*x.detach(), y, idx)) <= 2 * 16 * n * width * 4 < n * k * 4
    assert largest(lambda: loss(*x.detach(), y, idx)) <= n * (k + 1)  # the indices


class Likelihoods(nn.Module):
    """The criterion of the memory's likelihoods, of embeddings whose widths are CRDLoss's."""

    def __init__(self, opt):
        super().__init__()
        self.memory, self.criterion = ContrastMemory(DIM, N_DATA, K), ContrastLoss(N_DATA)
        self.embed = nn.ModuleList([Embed(opt.s_dim, DIM), Embed(opt.t_dim, DIM)])

    def forward(self, f_s, f_t, y, idx):
        return sum(map(self.criterion, self.memory(self.embed[0](f_s), self.embed[1](f_t), y, idx)))


@pytest.mark.parametrize("build", [CRDLoss, Likelihoods])
def test_one_graph_serves_every_step(build):
    """Compiled without a break, once for all sizes of batches: values, gradients, Z of the first batch, banks."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    modules = [build(options(s_dim=3)), build(options(s_dim=3))]
    modules[1].load_state_dict(modules[0].state_dict())
    compiled = torch.compile(modules[1], fullgraph=True, dynamic=True, backend="aot_eager")
    for step, n in enumerate((4, 4, 6)):
        with torch._dynamo.config.patch(error_on_recompile=step > 0):
            torch.testing.assert_close(*(a_step(call, n, step) for call in (modules[0], compiled)))


def a_step(module, n, step):
    """Loss, gradients, buffers after the step."""
    torch.manual_seed(step)
    f_s, f_t = torch.randn(n, 3, requires_grad=True), torch.randn(n, 7, requires_grad=True)
    loss = module(f_s, f_t, *batch(n, seed=step)[2:])
    gradients = torch.autograd.grad(loss.sum(), (f_s, f_t, *module.parameters()))
    return [loss, *gradients, *(b.clone() for b in module.buffers())]


@pytest.mark.parametrize("build", [CRDLoss, Likelihoods])
def test_an_exported_graph_has_gradients(build):
    """Of the first batch too, whose Z is computed from the embeddings and has none."""
    torch.manual_seed(0)
    module = build(options(s_dim=3))
    examples = torch.randn(4, 3, requires_grad=True), torch.randn(4, 7, requires_grad=True), *batch()[2:]
    program = torch.export.export(copy.deepcopy(module), examples).module()
    for step in range(2):
        torch.testing.assert_close(*(a_step(call, 4, step) for call in (module, program)))
