"""torch.compile and torch.export of every loss and of bounds; those of the operators are in test_ops_*_torch.py."""

import io

import pytest
import torch
from objectives import BOUNDS, LOSSES, OBJECTIVES, D, close, value_and_gradients, views
from torch import nn
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.aot_autograd import make_boxed_func
from torch.export import Dim, export

from mi_ext import DotScores, JointScores, bounds, critics, losses

pytestmark = pytest.mark.usefixtures("one_thread")
TESTED_ELSEWHERE = {  # test_ops_torch, test_losses_dim, test_losses_dependency, test_decomposed
    *("InfoNCE", "NTXent", "CLIP", "SigLIP", "DCL", "MLCPC", "MoCo", "KPair", "DIM", "NeuralDependency"),
    *("infonce", "ml_cpc", "nwj", "donsker_varadhan", "jensen_shannon", "smile", "tuba"),
    *("importance_infonce", "decomposed_infonce", "eta_dv_convex"),
}
COMPILED = [name for name in LOSSES | BOUNDS if name not in TESTED_ELSEWHERE] + ["labels", "log-weights"]


def inputs(n):
    """Tensors of their own: export takes views of one tensor for shapes that go together."""
    return [t.clone() for t in views(n)]


@pytest.mark.parametrize("name", COMPILED)
def test_compile(name):
    """One graph without a break, traced with its backward pass."""
    torch._dynamo.reset()
    compiled = torch.compile(OBJECTIVES[name], fullgraph=True, dynamic=True, backend="aot_eager")
    close(value_and_gradients(compiled, *inputs(8)), value_and_gradients(OBJECTIVES[name], *inputs(8)))


ONCE = [
    "infonce",
    "alpha_cpc",
    "ml_cpc",
    "nwj",
    "interpolated",
    "MLCPC",
    "KPair",
    "DIM",
    "SupCon",
    "importance_infonce",
]


@pytest.mark.parametrize("name", ONCE)
def test_one_graph_serves_every_n(name):
    torch._dynamo.reset()
    compiled = torch.compile(OBJECTIVES[name], fullgraph=True, dynamic=True, backend="aot_eager")
    value_and_gradients(compiled, *inputs(8))
    with torch._dynamo.config.patch(error_on_recompile=True):
        for n in (13, 21):
            close(value_and_gradients(compiled, *inputs(n)), value_and_gradients(OBJECTIVES[name], *inputs(n)))


def test_one_graph_serves_as_many_blocks_of_columns(monkeypatch):
    monkeypatch.setattr("mi_ext.scores.blocks._BLOCK_ENTRIES", 100)
    torch._dynamo.reset()
    interpolated = OBJECTIVES["interpolated"]
    compiled = torch.compile(interpolated, fullgraph=True, dynamic=True, backend="aot_eager")
    for n in (15, 16):  # 3 blocks of at most 6 columns
        with torch._dynamo.config.patch(error_on_recompile=n > 15):
            ours = value_and_gradients(compiled, *inputs(n))
        close(ours, value_and_gradients(interpolated, *inputs(n)))


@pytest.mark.parametrize("name", ["alpha_cpc", "ml_cpc"])
def test_a_graph_for_every_n_takes_one_walk(name):
    """A weight that depends on n is no reason to compute the scores again."""
    walks = []

    def backend(module, _):
        operators = [node.target for node in module.graph.nodes if "mi_ext" in str(node.target)]
        walks.extend(operator for operator in operators if operator != torch.ops.mi_ext.kept_gradient.default)
        return make_boxed_func(module.forward)

    torch._dynamo.reset()
    compiled = torch.compile(OBJECTIVES[name], fullgraph=True, dynamic=True, backend=aot_autograd(fw_compiler=backend))
    value_and_gradients(compiled, *inputs(8))
    assert walks == [torch.ops.mi_ext.dot_fused.default]


class Everything(nn.Module):
    """A model with learned temperatures, whose loss is a sum over all sources of scores."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encode = nn.Linear(D, D)
        self.joint = critics.Joint(D, D, 5)
        self.clip = losses.CLIP(nn.Parameter(torch.tensor(0.2)))
        self.siglip = losses.SigLIP(nn.Parameter(torch.tensor(0.3)), nn.Parameter(torch.tensor(-1.0)))

    def forward(self, x, y):
        x = self.encode(x)
        contrastive = self.clip(x, y) + self.siglip(x, y) + losses.KPair()(x, y, torch.stack([y, y.flip(0)], 1))
        s1, s2 = DotScores(x, y), DotScores(x.flip(0), y)
        return contrastive - bounds.decomposed_infonce(s1, s2, 0.5) - bounds.infonce(JointScores(x, y, self.joint))


def test_compile_to_code():
    torch._dynamo.reset()
    loss = losses.CLIP(nn.Parameter(torch.tensor(0.2)))
    compiled = torch.compile(loss, fullgraph=True)

    def gradients(f):
        value, *of_inputs = value_and_gradients(f, *inputs(8))
        return value, *of_inputs, *torch.autograd.grad(f(*inputs(8)), loss.temperature)

    close(gradients(compiled), gradients(loss))


class Loss(nn.Module):
    def __init__(self, name):
        super().__init__()
        self.name = name

    def forward(self, x, y):
        return OBJECTIVES[self.name](x, y)


def exported(module, requires_grad=False):
    size = Dim("n", min=3, max=60)
    examples = tuple(t.requires_grad_(requires_grad) for t in inputs(8))
    return export(module, examples, dynamic_shapes=({0: size}, {0: size}))


EXPORTED = ["infonce", "alpha_cpc", "ml_cpc", "smile", "interpolated", "conditional_infonce", "joint rows", "labels"]


@pytest.mark.parametrize("name", [*LOSSES, *EXPORTED])
def test_export_for_any_batch(name):
    program = exported(Loss(name)).module()
    for n in (11, 13):
        torch.manual_seed(0)
        ours = program(*inputs(n))
        torch.manual_seed(0)
        close([ours], [OBJECTIVES[name](*inputs(n))])


def test_an_exported_model_is_saved_and_loaded():
    model, file = Everything(), io.BytesIO()
    torch.export.save(exported(model), file)
    file.seek(0)
    close([torch.export.load(file).module()(*inputs(9))], [model(*inputs(9))])


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_exported_graph_has_gradients(name):
    """Exported with example inputs that ask for one; a model that is trained after torch.export has them."""
    program = exported(Loss(name), requires_grad=True).module()
    torch.manual_seed(0)
    ours = value_and_gradients(program, *inputs(11))
    torch.manual_seed(0)
    close(ours, value_and_gradients(OBJECTIVES[name], *inputs(11)))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_graph_exported_for_values_never_drops_a_gradient(name):
    """It has the gradient as well, or says how to export it: a zero would go unseen."""
    program = exported(Loss(name)).module()
    torch.manual_seed(0)
    try:
        ours = value_and_gradients(program, *inputs(11))
    except RuntimeError as error:
        assert "requires_grad" in str(error)
    else:
        torch.manual_seed(0)
        close(ours, value_and_gradients(OBJECTIVES[name], *inputs(11)))


def test_only_one_side_asked_for_a_gradient():
    size = Dim("n", min=3, max=60)
    x, y = inputs(8)
    program = export(Loss("InfoNCE"), (x.requires_grad_(), y), dynamic_shapes=({0: size}, {0: size})).module()
    x, y = inputs(11)
    (ours,), (expected,) = (torch.autograd.grad(f(x.requires_grad_(), y), x) for f in (program, OBJECTIVES["InfoNCE"]))
    close([ours], [expected])
    with pytest.raises(RuntimeError, match="example inputs that have requires_grad set"):
        program(x, y.requires_grad_()).backward()


def test_a_loaded_model_is_trained():
    model, file = Everything(), io.BytesIO()
    torch.export.save(exported(model), file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    found = [torch.autograd.grad(f(*inputs(9)), tuple(f.parameters())) for f in (model, loaded)]
    close(*found)
