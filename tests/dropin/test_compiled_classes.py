"""Losses of labels, classes and documents in torch.compile, without a graph break, and torch.export; CRD: test_crd."""

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


PAIRS = torch.tensor([0, 0, 1]), torch.tensor([1, 2, 0]), torch.tensor([0, 1, 1]), torch.tensor([3, 4, 5])
LOSSES = {
    "NTXentLoss": lambda x, y: pytorch_metric_learning.NTXentLoss()(x, LABELS, ref_emb=y, ref_labels=LABELS),
    "NTXentLoss of one view": lambda x, y: pytorch_metric_learning.NTXentLoss()(x + y, LABELS),
    "NTXentLoss of pairs": lambda x, y: pytorch_metric_learning.NTXentLoss()(x, None, PAIRS, y),
    "SelfSupervisedLoss": pytorch_metric_learning.SelfSupervisedLoss(pytorch_metric_learning.NTXentLoss()),
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


def views(seed=0, requires_grad=True):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(8, 4, generator=generator).requires_grad_(requires_grad) for _ in range(2)]


def value_and_gradients(loss, x, y):
    value = loss(x, y)
    return [value.detach(), *torch.autograd.grad(value, (x, y))]


@pytest.mark.parametrize("name", LOSSES)
def test_no_graph_break(name):
    torch._dynamo.reset()
    compiled = torch.compile(LOSSES[name], fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(*(value_and_gradients(loss, *views()) for loss in (compiled, LOSSES[name])))


@pytest.mark.parametrize("name", ["NTXentLoss", "SupConLoss"])
def test_one_graph_of_labels_serves_every_batch(name):
    """However many pairs they make: none, all."""
    torch._dynamo.reset()
    loss = getattr(pytorch_metric_learning, name)()
    compiled = torch.compile(loss, fullgraph=True, dynamic=True, backend="eager")
    for k, labels in enumerate((torch.arange(8) // 3, torch.arange(11), torch.zeros(9).long(), torch.arange(13) % 2)):
        x = torch.randn(len(labels), 4, generator=torch.Generator().manual_seed(k))
        with torch._dynamo.config.patch(error_on_recompile=k > 0):
            torch.testing.assert_close(compiled(x, labels), loss(x, labels))


@pytest.mark.parametrize("name", ["NTXentLoss", "SupConLoss"])
@pytest.mark.parametrize("memory_size", [40, 9, 5])
def test_one_graph_serves_every_place_of_a_memory(name, memory_size):
    """While it is filled, and when it wraps, in the middle of a batch too: more steps than torch compiles graphs."""
    torch._dynamo.reset()
    pair = [
        pytorch_metric_learning.CrossBatchMemory(getattr(pytorch_metric_learning, name)(), 4, memory_size)
        for _ in range(2)
    ]
    calls = pair[0], torch.compile(pair[1], fullgraph=True, backend="aot_eager")
    for step in range(11):
        (x, _), labels = views(step), torch.arange(5) * (step + 1) % 3
        with torch._dynamo.config.patch(error_on_recompile=step > 0):
            values = [call(x[:5], labels) for call in calls]
        torch.testing.assert_close(*([v.detach(), *torch.autograd.grad(v, x)] for v in values))
    torch.testing.assert_close(*(dict(memory.named_buffers()) for memory in pair))
    assert [memory.queue_idx for memory in pair] == [55 % memory_size] * 2


def test_export_for_any_batch():
    loss, n = pytorch_metric_learning.NTXentLoss(), torch.export.Dim("n", min=3, max=60)
    program = torch.export.export(
        loss, (torch.randn(8, 4), LABELS), dynamic_shapes={"embeddings": {0: n}, "labels": {0: n}}
    )
    x, labels = torch.randn(13, 4), torch.arange(13) // 2
    torch.testing.assert_close(program.module()(x, labels), loss(x, labels))


class Loss(torch.nn.Module):
    def __init__(self, name):
        super().__init__()
        self.function = LOSSES[name]

    def forward(self, x, y):
        return self.function(x, y)


@pytest.mark.parametrize("name", LOSSES)
def test_an_exported_graph_has_gradients(name):
    program = torch.export.export(Loss(name), tuple(views())).module()
    torch.testing.assert_close(*(value_and_gradients(loss, *views(1)) for loss in (program, LOSSES[name])))


@pytest.mark.parametrize("name", LOSSES)
def test_a_graph_exported_for_values_never_drops_a_gradient(name):
    program = torch.export.export(Loss(name), tuple(views(requires_grad=False))).module()
    try:
        found = value_and_gradients(program, *views(1))
    except RuntimeError as error:
        assert "requires_grad" in str(error) and name != "softcap"
    else:
        torch.testing.assert_close(found, value_and_gradients(LOSSES[name], *views(1)))
