"""`mi_ext.dropin.moco` beside the formulas, written out: MoCo is on no package index."""

import copy
import os

import pytest
import torch
from torch import distributed, nn
from torch.nn import functional as F

from mi_ext import losses
from mi_ext.dropin.moco import MoCo, concat_all_gather

pytestmark = pytest.mark.usefixtures("one_thread")
WIDTH, DIM, K = 5, 3, 12


class Encoder(nn.Module):
    """The least that the builder asks of a network: num_classes, and a last layer named fc."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.body = nn.Linear(WIDTH, 6)
        self.norm = nn.BatchNorm1d(6)
        self.fc = nn.Linear(6, num_classes)

    def forward(self, x):
        return self.fc(F.relu(self.norm(self.body(x))))


class Written:
    """State and one step, straight from the paper's Algorithm 1."""

    def __init__(self, model: MoCo):
        self.q, self.k = copy.deepcopy(model.encoder_q), copy.deepcopy(model.encoder_k)
        self.queue, self.at, self.m, self.T = model.queue.clone(), 0, model.m, model.T

    def step(self, im_q, im_k):
        q = F.normalize(self.q(im_q), dim=1)
        with torch.no_grad():
            for a, b in zip(self.q.parameters(), self.k.parameters(), strict=True):
                b.copy_(self.m * b + (1 - self.m) * a)
            k = F.normalize(self.k(im_k), dim=1)
        logits = torch.cat([torch.einsum("nc,nc->n", q, k)[:, None], torch.einsum("nc,ck->nk", q, self.queue)], 1)
        self.queue = torch.cat([self.queue[:, : self.at], k.T, self.queue[:, self.at + len(k) :]], 1)
        self.at = (self.at + len(k)) % K
        return logits / self.T


def model(**options) -> MoCo:
    torch.manual_seed(0)
    return MoCo(Encoder, dim=DIM, K=K, **options).double()


@pytest.mark.parametrize("mlp", [False, True])
def test_steps(mlp):
    """Logits, gradients and state over more steps than the queue is long: it wraps."""
    ours = model(m=0.9, T=0.2, mlp=mlp)
    written = Written(ours)
    for step in range(5):
        batch = torch.randn(2, 4, WIDTH, dtype=torch.float64)
        logits, labels = ours(*batch)
        expected = written.step(*batch)
        assert labels.dtype == torch.int64 and labels.tolist() == [0] * 4
        torch.testing.assert_close(logits, expected)
        asked = list(ours.encoder_q.parameters()), list(written.q.parameters())
        losses_ = F.cross_entropy(logits, labels), F.cross_entropy(expected, labels)
        for a, b in zip(*(torch.autograd.grad(x, p) for x, p in zip(losses_, asked, strict=True)), strict=True):
            torch.testing.assert_close(a, b)
        torch.testing.assert_close(ours.queue, written.queue)
        assert ours.queue_ptr.tolist() == [4 * (step + 1) % K] == [written.at]
        for a, b in zip(ours.encoder_k.state_dict().values(), written.k.state_dict().values(), strict=True):
            torch.testing.assert_close(a, b)
        with torch.no_grad():  # an optimiser's step, so that the momentum has something to do
            for parameters in asked:
                for p in parameters:
                    p.add_(0.1)


def test_contract():
    """Defaults, buffers, what is trained, what starts equal, what is enqueued."""
    torch.manual_seed(0)
    m = MoCo(Encoder)
    assert (m.K, m.m, m.T) == (65536, 0.999, 0.07)
    buffers = {name: tuple(t.shape) for name, t in m.named_buffers() if not name.startswith("encoder")}
    assert buffers == {"queue": (128, 65536), "queue_ptr": (1,)}
    assert m.queue_ptr.dtype == torch.int64
    torch.testing.assert_close(m.queue.norm(dim=0), torch.ones(65536))
    assert not any(p.requires_grad for p in m.encoder_k.parameters())
    assert all(p.requires_grad for p in m.encoder_q.parameters())
    for a, b in zip(m.encoder_q.parameters(), m.encoder_k.parameters(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(AssertionError, match="^K: "):
        model()(*torch.randn(2, 5, WIDTH, dtype=torch.float64))


def test_state_dict_keys_and_continuation():
    ours = model(mlp=True)
    encoder = [f"{name}.{key}" for name in ("encoder_q", "encoder_k") for key in ours.encoder_q.state_dict()]
    assert list(ours.state_dict()) == ["queue", "queue_ptr", *encoder]
    assert {"encoder_q.fc.0.weight", "encoder_q.fc.2.weight"} <= set(encoder)
    ours(*torch.randn(2, 4, WIDTH, dtype=torch.float64))
    other = model(mlp=True)
    other.load_state_dict(ours.state_dict())
    batch = torch.randn(2, 4, WIDTH, dtype=torch.float64)
    assert torch.equal(ours(*batch)[0], other(*batch)[0])


def test_cross_entropy_is_the_streamed_loss():
    ours = model()
    queue = ours.queue.clone()
    im_q, im_k = torch.randn(2, 4, WIDTH, dtype=torch.float64)
    loss = F.cross_entropy(*ours(im_q, im_k))
    with torch.no_grad():
        streamed = losses.MoCo(0.07)(ours.encoder_q(im_q), ours.encoder_k(im_k), queue.T)
    torch.testing.assert_close(loss, streamed, rtol=1e-9, atol=1e-9)


def two_ranks(rank: int, port: int):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    distributed.init_process_group("gloo", rank=rank, world_size=2)
    m = model().eval()  # without BatchNorm's batch statistics the shuffling changes no key
    alone = Written(m)
    batch = torch.randn(2, 3, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(rank))
    logits, _ = m(*batch)
    torch.testing.assert_close(logits, alone.step(*batch))
    keys = concat_all_gather(alone.queue[:, :3].T)
    torch.testing.assert_close(m.queue[:, :6], keys.T)
    assert m.queue_ptr.item() == 6
    distributed.destroy_process_group()


def test_two_ranks():
    """Keys come back from the shuffling to their queries, and all ranks enqueue the keys of both."""
    import socket

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    torch.multiprocessing.spawn(two_ranks, (port,), nprocs=2)
