"""Losses of labels, classes and documents in torch.compile, without a graph break.

NTXent, whose pairs are as many as labels say, and CRD, which reads its parameters from a buffer, do break graphs.
"""

import pytest
import torch

from mi_ext.dropin import cut_cross_entropy, pytorch_metric_learning, sentence_transformers
from mi_ext.dropin import torch as dropin_torch

pytestmark = pytest.mark.usefixtures("one_thread")
CLASSES, LABELS = torch.tensor([0, 3, 2, 2, -100, 1, 0, 4]), torch.arange(8) // 3
WEIGHT = torch.linspace(0.5, 1.5, 5)
DIRECTIONS = "query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc"


def ranking(**options):
    loss = sentence_transformers.MultipleNegativesRankingLoss(None, **options)
    return lambda x, y: loss.compute_loss_from_embeddings([x, y, y.flip(0)], None)


LOSSES = {
    "SupConLoss": lambda x, y: pytorch_metric_learning.SupConLoss()(x, LABELS, ref_emb=y, ref_labels=LABELS),
    "MultipleNegativesRankingLoss": ranking(),
    "all directions": ranking(directions=DIRECTIONS),
    "hardness": ranking(hardness_mode="all_negatives", hardness_strength=1.0),
    "any similarity": ranking(similarity_fct=lambda a, b: a @ b.T),
    "linear_cross_entropy": lambda x, y: cut_cross_entropy.linear_cross_entropy(x, y[:5], CLASSES),
    "softcap": lambda x, y: cut_cross_entropy.linear_cross_entropy(x, y[:5], CLASSES, softcap=2.0, shift=1),
    "label smoothing": lambda x, y: dropin_torch.linear_cross_entropy(
        x, y[:5], CLASSES, weight=WEIGHT, label_smoothing=0.1
    ),
    "info_nce_loss": dropin_torch.info_nce_loss,
}


@pytest.mark.parametrize("name", LOSSES)
def test_no_graph_break(name):
    torch._dynamo.reset()
    x, y = (torch.randn(8, 4, generator=torch.Generator().manual_seed(s)).requires_grad_() for s in (0, 1))
    results = []
    for loss in (LOSSES[name], torch.compile(LOSSES[name], fullgraph=True, backend="aot_eager")):
        value = loss(x, y)
        results.append([value, *torch.autograd.grad(value, (x, y))])
    torch.testing.assert_close(*results)
