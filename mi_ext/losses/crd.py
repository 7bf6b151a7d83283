"""Contrastive representation distillation: a student's and a teacher's embeddings, each against the other's memory."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .. import bounds, validation
from ..log_domain import log_of
from ..negatives import MemoryBank
from ..scores import GatheredScores
from .base import ContrastiveLoss, LossOutput, computed_if, same_shape, stats_of


class CRD(ContrastiveLoss):
    """Contrastive representation distillation: noise-contrastive estimation against a memory of all items, both ways.

    One way, with scores s = <x, memory row>/T, m negatives drawn with probability P_n = 1/size:

        mean_i [−log σ(p_i − c) − Σ_k log σ(c − s_ik)],    c = log Z + log(m · P_n)

    the student against the teacher's memory plus the teacher against the student's. Minimise. Normalises by default. No
    denominator: every pair is a term of its own. Nats; mi is `bounds.infonce` of the student's scores, K = m + 1.

    size: number of items; dim: width of the embeddings. Z, one for each way, is a constant without gradient:
    normalizer="first" takes size · mean e^s of the first batch, positives included; "ema" its moving average,
    Z ← normalizer_momentum · Z + (1 − normalizer_momentum) · batch, current batch included; a number gives it. Buffer
    `log_normalizer` float64 [2] (student, teacher), NaN before the first batch. epsilon is added to m · P_n in the
    probabilities only, as the authors' code does with 1e-7.

    forward(student [n, dim], teacher [n, dim], index int64 [n], negative_index=None, generator=None): index names the
    items; negative_index int64 [n, m] names the negatives, by default n_negatives uniform draws from all items for each
    query. Both embeddings get gradients; the memories get none, and in train() they are updated after use, by
    `MemoryBank.update`. Tian, Krishnan, Isola, Contrastive Representation Distillation, eq. 10 to 19.
    """

    log_normalizer: Tensor

    def __init__(
        self,
        size: int,
        dim: int,
        n_negatives: int = 16384,
        temperature: float | Tensor = 0.07,
        momentum: float = 0.5,
        normalize: bool = True,
        normalizer: float | str = "first",
        normalizer_momentum: float = 0.99,
        epsilon: float = 0.0,
    ):
        super().__init__(temperature, normalize)
        validation.positive_int("n_negatives", n_negatives)
        if not 0 <= normalizer_momentum < 1:
            raise ValueError(f"normalizer_momentum: expected a number in [0, 1), got {normalizer_momentum}")
        if not 0 <= epsilon < math.inf:
            raise ValueError(f"epsilon: expected a number ≥ 0, got {epsilon}")
        if isinstance(normalizer, str):
            validation.one_of("normalizer", normalizer, ("first", "ema"))
        elif not 0 < normalizer < math.inf:
            raise ValueError(f"normalizer: expected 'first', 'ema' or a number Z > 0, got {normalizer}")
        self.student_memory = MemoryBank(size, dim, momentum)
        self.teacher_memory = MemoryBank(size, dim, momentum)
        self.n_negatives = n_negatives
        self.normalizer = normalizer
        self.normalizer_momentum = normalizer_momentum
        self.epsilon = epsilon
        log_normalizer = math.nan if isinstance(normalizer, str) else math.log(normalizer)
        self.register_buffer("log_normalizer", torch.full((2,), log_normalizer, dtype=torch.float64))

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        index: Tensor,
        negative_index: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
        return_stats: bool = False,
    ) -> LossOutput:
        same_shape("teacher", teacher, "student", student)
        if self.training:
            validation.one_problem("student", student, "CRD has one memory of each network in train()")
        student, teacher = self.embed("student", student), self.embed("teacher", teacher)
        size, dim = self.student_memory.memory.shape
        validation.vectors("student", student, dim)
        validation.candidate_index("index", index, len(student), size, student.device)
        if len(index) == 0:
            raise ValueError("student: the mean over n = 0 items is undefined; pass at least one item")
        if negative_index is None:
            shape = len(index), self.n_negatives
            negative_index = torch.randint(size, shape, generator=generator, device=index.device)
        else:
            validation.row_index("negative_index", negative_index, len(index), size, index.device)
        if negative_index.shape[1] == 0:
            raise ValueError("negative_index: expected at least one negative for each item, got none")
        ways = (student, self.teacher_memory), (teacher, self.student_memory)
        losses = [self._loss(x, bank.memory, index, negative_index, way) for way, (x, bank) in enumerate(ways)]
        scores = losses[0][1]
        loss = (losses[0][0] + losses[1][0]).to(scores.dtype)
        stats = stats_of(scores, bounds.infonce) if return_stats else {}
        if self.training:
            self.student_memory.update(index, student)
            self.teacher_memory.update(index, teacher)
        return (loss, stats) if return_stats else loss

    def _loss(
        self, x: Tensor, bank: Tensor, index: Tensor, negative_index: Tensor, way: int
    ) -> tuple[Tensor, GatheredScores]:
        """(mean_i [softplus(c − p_i) + Σ_k softplus(s_ik − c)] and what epsilon takes from log σ(c − s); scores)."""
        positive = bank[index]

        def scores_of(bias: Tensor | None = None) -> GatheredScores:
            return GatheredScores(x, bank, negative_index, self.scale, bias, positive=positive)

        scores = scores_of()
        odds = scores.n_negatives / len(bank)
        c = self._log_normalizer(scores_of, way) + math.log(odds + self.epsilon)
        shifted = scores_of(-c).double()
        return shifted.logistic_loss() + scores.n_negatives * math.log1p(self.epsilon / odds), scores

    def _log_normalizer(self, scores_of: Callable[[], GatheredScores], way: int) -> Tensor:
        """log Z, 0-dim; brought up to date in train()."""
        log_size = math.log(len(self.student_memory.memory))

        def of_batch() -> Tensor:
            s = scores_of().double()
            return log_size + s.log_partition(reduction="lse") - math.log(s.n_queries * s.n_candidates)

        with torch.no_grad():
            log_z = self.log_normalizer[way].clone()
            if not isinstance(self.normalizer, str):
                return log_z
            if self.normalizer == "first" or not self.training:
                log_z = computed_if(log_z.isnan(), of_batch, log_z)
            else:
                batch, kept = of_batch(), self.normalizer_momentum
                average = torch.logaddexp(log_z + log_of(kept), batch + math.log1p(-kept))
                log_z = torch.where(log_z.isnan(), batch, average)
            if self.training:
                self.log_normalizer[way] = log_z
            return log_z
