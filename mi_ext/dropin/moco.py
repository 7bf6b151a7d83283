"""MoCo's model (facebookresearch/moco, moco/builder.py).

from mi_ext.dropin.moco import MoCo
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F


class MoCo(nn.Module):
    """Momentum contrast as a model: forward(im_q, im_k) → (logits [N, 1 + K], labels [N]), for a cross-entropy.

        logits_i = (<q_i, k_i>, <q_i, queue_1>, …, <q_i, queue_K>)/T,    labels_i = 0

    The cross-entropy of the logits, to minimise, in nats, has the positive in its denominator. q and k are normalised;
    k and the queue get no gradient. `base_encoder(num_classes=dim)` makes each of `encoder_q` and `encoder_k`; with
    `mlp` a hidden layer is put before their last one, `fc`. At each call encoder_k ← m · encoder_k + (1 − m) ·
    encoder_q first, and the keys are enqueued last.

    Buffers as the original has them: `queue` [dim, K], columns of unit length, `queue_ptr` int64 [1]. In a process
    group inputs are shuffled for BatchNorm and the keys of all ranks enqueued, as there; here neither a group nor a GPU
    is needed. AssertionError for an enqueued batch that does not divide K.

    The logits are N×(1 + K) by this contract. `mi_ext.losses.MoCo` gives the loss without them.
    """

    queue: Tensor
    queue_ptr: Tensor

    def __init__(
        self,
        base_encoder: Callable[..., Any],
        dim: int = 128,
        K: int = 65536,
        m: float = 0.999,
        T: float = 0.07,
        mlp: bool = False,
    ) -> None:
        super().__init__()
        self.K = K
        self.m = m
        self.T = T
        self.encoder_q = base_encoder(num_classes=dim)
        self.encoder_k = base_encoder(num_classes=dim)
        if mlp:
            for encoder in (self.encoder_q, self.encoder_k):
                width = encoder.fc.weight.shape[1]
                encoder.fc = nn.Sequential(nn.Linear(width, width), nn.ReLU(), encoder.fc)
        for q, k in self._parameter_pairs():
            k.data.copy_(q.data)
            k.requires_grad = False
        self.register_buffer("queue", F.normalize(torch.randn(dim, K), dim=0))
        self.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.long))

    def forward(self, im_q: Tensor, im_k: Tensor) -> tuple[Tensor, Tensor]:
        q = F.normalize(self.encoder_q(im_q), dim=1)
        with torch.no_grad():
            self._momentum_update_key_encoder()
            im_k, order = self._batch_shuffle_ddp(im_k)
            k = self._batch_unshuffle_ddp(F.normalize(self.encoder_k(im_k), dim=1), order)
        negatives = q @ self.queue.clone()  # a copy, since the backward pass comes after the keys are enqueued
        logits = torch.cat([(q * k).sum(1, keepdim=True), negatives], dim=1) / self.T
        self._dequeue_and_enqueue(k)
        return logits, torch.zeros(len(logits), dtype=torch.long, device=logits.device)

    @torch.no_grad()
    def _momentum_update_key_encoder(self) -> None:
        for q, k in self._parameter_pairs():
            k.mul_(self.m).add_(q * (1.0 - self.m))

    @torch.no_grad()
    def _dequeue_and_enqueue(self, keys: Tensor) -> None:
        keys = concat_all_gather(keys)
        n, start = len(keys), int(self.queue_ptr)
        if self.K % n != 0:
            raise AssertionError(f"K: expected a multiple of the enqueued batch, {n} keys, got K = {self.K}")
        self.queue[:, start : start + n] = keys.T
        self.queue_ptr[0] = (start + n) % self.K

    @torch.no_grad()
    def _batch_shuffle_ddp(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """This rank's part of all ranks' inputs in a random order that is the same on all, and the order's inverse."""
        if not _in_a_group():
            return x, None
        everything = concat_all_gather(x)
        order = torch.randperm(len(everything), device=x.device)
        distributed.broadcast(order, src=0)
        return everything[_own_part(order)], order.argsort()

    @torch.no_grad()
    def _batch_unshuffle_ddp(self, x: Tensor, idx_unshuffle: Tensor | None) -> Tensor:
        return x if idx_unshuffle is None else concat_all_gather(x)[_own_part(idx_unshuffle)]

    def _parameter_pairs(self) -> Iterator[tuple[nn.Parameter, nn.Parameter]]:
        return zip(self.encoder_q.parameters(), self.encoder_k.parameters(), strict=True)


@torch.no_grad()
def concat_all_gather(tensor: Tensor) -> Tensor:
    """Rows of all ranks in their order, without a gradient; without a process group, the tensor."""
    if not _in_a_group():
        return tensor
    gathered = [torch.empty_like(tensor) for _ in range(distributed.get_world_size())]
    distributed.all_gather(gathered, tensor.contiguous())
    return torch.cat(gathered)


def _in_a_group() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def _own_part(index: Tensor) -> Tensor:
    return index.view(distributed.get_world_size(), -1)[distributed.get_rank()]
