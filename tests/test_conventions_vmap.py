"""torch.func: vmap over problems, grad, and each inside the other; errors by name for what cannot be transformed."""

import pytest
import torch
from objectives import BOUNDS, DISCRIMINATOR, INDEX, LOSSES, OBJECTIVES, D, close, value_and_gradients, views
from torch.func import grad, hessian, jacrev, jvp, vmap

from mi_ext import DotScores, GatheredScores, bounds, losses, negatives, ops

pytestmark = pytest.mark.usefixtures("one_thread")
B = 3
RECOMPUTED = ["interpolated", "softplus with log-weights"]


def one_by_one(objective, *inputs):
    """Values [B] and gradients of B problems."""
    problems = zip(*inputs, strict=True)
    return [torch.stack(t) for t in zip(*(value_and_gradients(objective, *p) for p in problems), strict=True)]


@pytest.mark.parametrize("name", [name for name in OBJECTIVES if name != "NeuralDependency"])
def test_grad_and_vmap(name):
    objective, (x, y) = OBJECTIVES[name], views(batch=(B,))
    value, dx, dy = one_by_one(objective, x, y)
    close([vmap(objective)(x, y)], [value])
    transformed = {
        "grad": lambda: close(grad(objective, (0, 1))(x[0], y[0]), (dx[0], dy[0])),
        "vmap of grad": lambda: close(vmap(grad(objective, (0, 1)))(x, y), (dx, dy)),
        "grad of vmap": lambda: close(grad(lambda *both: vmap(objective)(*both).sum(), (0, 1))(x, y), (dx, dy)),
        "autograd of vmap": lambda: close(
            value_and_gradients(lambda *both: vmap(objective)(*both).sum(), x, y), (value.sum(), dx, dy)
        ),
    }
    for check in transformed.values():
        if name in RECOMPUTED:
            with pytest.raises(RuntimeError, match="mi_ext: .*torch.func cannot; use torch.autograd.grad"):
                check()
        else:
            check()


def test_the_table_has_every_loss_and_bound():
    """CRD draws its negatives and the EMA keeps a state: below. The others are no functions of scores."""
    others = {"CRD", "ContrastiveLoss", "shuffle_dimensions"}
    assert set(losses.__all__) - others == set(LOSSES)
    others = {"DonskerVaradhanEMA", "alpha_schedule", "ml_cpc_min_alpha", "sir_infonce"}
    assert set(bounds.__all__) - others == set(BOUNDS)


def test_every_differentiable_operator_maps_over_problems():
    functions = [f for f in ops.autograd.Operator.__subclasses__() if f.__module__.startswith("mi_ext.ops")]
    assert len(functions) > 5 and all(f.vmap is not torch.autograd.Function.vmap for f in functions)
    direct = {f for f in torch.autograd.Function.__subclasses__() if f.__module__.startswith("mi_ext")}
    between_ranks = {f for f in direct if f.__module__.startswith("mi_ext.distributed")}  # each a call of all ranks
    assert direct - between_ranks == {ops.autograd.Operator}


@pytest.mark.parametrize("name", ["InfoNCE", "SigLIP", "gathered softplus", "joint", "importance_infonce"])
@pytest.mark.parametrize("dims", [(0, None), (None, 0), (2, 1)], ids=str)
def test_what_has_no_batch_dimension_is_shared(name, dims):
    x, y = views(batch=(B,))
    given = [t[0] if dim is None else t.movedim(0, dim) for t, dim in zip((x, y), dims, strict=True)]
    each = [t[:1].expand_as(t) if dim is None else t for t, dim in zip((x, y), dims, strict=True)]
    value, *gradients = one_by_one(OBJECTIVES[name], *each)
    close(vmap(grad(OBJECTIVES[name], (0, 1)), dims)(*given), gradients)
    total, *ours = value_and_gradients(lambda *both: vmap(OBJECTIVES[name], dims)(*both).sum(), *given)
    close([total], [value.sum()])
    moved = [g.sum(0) if dim is None else g.movedim(0, dim) for g, dim in zip(gradients, dims, strict=True)]
    close(ours, moved)


def test_nested_vmap():
    x, y = views(batch=(2, B))
    expected = torch.stack([one_by_one(losses.InfoNCE(), *pair)[1] for pair in zip(x, y, strict=True)])
    close([vmap(vmap(grad(losses.InfoNCE())))(x, y)], [expected])


INTEGERS = {
    "labels": lambda x, k: losses.CLIP()(x, x.flip(0), labels=(k, k)),
    "target": lambda x, k: bounds.nwj(DotScores(x, x.flip(0), target=k)),
    "classes": lambda x, k: losses.SupCon()(x, k),
    "index": lambda x, k: bounds.infonce(GatheredScores(x, x, k[:, None], positive=x)),
    "ranks": lambda x, k: losses.InfoNCE()(x, x.flip(0), k, return_stats=True)[1]["rank"],
}


@pytest.mark.parametrize("name", INTEGERS)
def test_integers_of_each_problem(name):
    x, k = views(batch=(B,))[0], torch.randint(8, (B, 8), generator=torch.Generator().manual_seed(0))
    expected = torch.stack([INTEGERS[name](*pair) for pair in zip(x, k, strict=True)])
    torch.testing.assert_close(vmap(INTEGERS[name])(x, k), expected)


def test_learned_scalars_of_each_problem():
    (x, y), t = views(batch=(B,)), torch.tensor([0.1, 0.5, 2.0])

    def objective(x, y, t):
        return losses.SigLIP(t, t - 1)(x, y) + losses.InfoNCE(t)(x, y)

    close(vmap(grad(objective, (0, 1, 2)))(x, y, t), one_by_one(objective, x, y, t)[1:])


def test_jacobian_of_rows():
    x, y = views(5)
    ours = jacrev(lambda x: DotScores(x, y).cross_entropy(reduction="none"))(x)
    close([ours], [jacrev(lambda x: torch.nn.functional.cross_entropy(x @ y.T, torch.arange(5), reduction="none"))(x)])


def test_a_memory_that_is_only_read():
    crd, k = losses.CRD(16, D, 4).eval(), INDEX[:8, :4]
    objective = lambda x, y: crd(x, y, torch.arange(8), k)  # noqa: E731
    x, y = views(batch=(B,))
    close(vmap(grad(objective, (0, 1)))(x, y), one_by_one(objective, x, y)[1:])
    ema = bounds.DonskerVaradhanEMA().eval()
    objective = lambda x, y: ema(DotScores(x, y))  # noqa: E731
    close(vmap(grad(objective, (0, 1)))(x, y), one_by_one(objective, x, y)[1:])


QUEUE, BANK = negatives.Queue(16, D), negatives.MemoryBank(16, D)
EMA = bounds.DonskerVaradhanEMA()
CRD = losses.CRD(16, D, 4)
UNEVEN = torch.tensor([0, 0, 0, 1, 1, 2, 2, 3])
UNMAPPABLE = {
    "keys: a queue": lambda x, k: QUEUE.enqueue(x),
    "embeddings: a memory bank": lambda x, k: BANK.update(torch.arange(8), x),
    "student: CRD": lambda x, k: CRD(x, x, torch.arange(8), INDEX[:8]),
    "scores: DonskerVaradhanEMA": lambda x, k: EMA(DotScores(x, x)),
    "scores: ml_cpc needs": lambda x, k: bounds.ml_cpc(DotScores(x, x, labels=(k, k)), 0.5),
    "scores: alpha_cpc needs": lambda x, k: bounds.alpha_cpc(DotScores(x, x, labels=(k, k)), 1.5),
    "scores: interpolated needs": lambda x, k: bounds.interpolated(DotScores(x, x, target=k), 0.5, x[:, 0]),
    "scores: resampling": lambda x, k: negatives.resample(DotScores(x, x), 5),
}


@pytest.mark.parametrize("message", UNMAPPABLE)
def test_what_takes_one_problem_says_so(message):
    x = views(batch=(B,))[0]
    with pytest.raises(ValueError, match=f"{message}.* a batch of torch.func.vmap; call it for one problem after"):
        vmap(UNMAPPABLE[message], randomness="different")(x, UNEVEN.expand(B, 8).clone())


def test_no_problems():
    with pytest.raises(ValueError, match="0 problems"):
        vmap(losses.InfoNCE())(*views(batch=(0,)))


def test_random_shuffles_ask_for_a_flag():
    """Which torch explains: "different" draws for each problem, "same" once for all."""
    loss, x = losses.NeuralDependency(DISCRIMINATOR), views(batch=(1,))[0].expand(B, 8, D)
    with pytest.raises(RuntimeError, match="randomness"):
        vmap(loss)(x)
    same, different = (vmap(loss, randomness=how)(x) for how in ("same", "different"))
    assert len(set(same.tolist())) == 1 and len(set(different.tolist())) == B


@pytest.mark.parametrize("name", ["InfoNCE", "SigLIP", "gathered softplus", "joint", "importance_infonce", "smile"])
def test_other_derivatives_are_errors_by_name(name):
    objective, (x, y) = OBJECTIVES[name], views()
    for transform in (lambda: jvp(objective, (x, y), (x, y)), lambda: hessian(objective)(x, y)):
        with pytest.raises(NotImplementedError, match="mi_ext: .*no forward-mode derivative.*DenseScores"):
            transform()
    with torch.autograd.forward_ad.dual_level():
        with pytest.raises(NotImplementedError, match="mi_ext: .*no forward-mode derivative"):
            objective(torch.autograd.forward_ad.make_dual(x, y), y)
    with pytest.raises(RuntimeError, match="mi_ext: .*no second derivative"):
        grad(lambda x: grad(objective)(x, y).square().sum())(x)


def test_dense_scores_have_every_derivative():
    objective, (x, y) = OBJECTIVES["dense"], views(4)
    along_both = sum((g * t).sum() for g, t in zip(grad(objective, (0, 1))(x, y), (x, y), strict=True))
    close([jvp(objective, (x, y), (x, y))[1]], [along_both])
    assert hessian(objective)(x, y).isfinite().all()


TRANSFORMED = {
    "vmap": lambda f: vmap(f),
    "vmap of grad": lambda f: vmap(grad(f)),
    "grad of vmap": lambda f: grad(lambda *both: vmap(f)(*both).sum()),
}


@pytest.mark.parametrize("transformed", TRANSFORMED)
@pytest.mark.parametrize("name", ["InfoNCE", "SigLIP", "gathered softplus", "joint"])
def test_compiled_vmap_is_an_error_where_its_gradient_would_be_lost(transformed, name):
    torch._dynamo.reset()
    compiled = torch.compile(TRANSFORMED[transformed](OBJECTIVES[name]), backend="eager")
    with pytest.raises(RuntimeError, match="mi_ext: torch.compile cannot differentiate torch.func.vmap"):
        compiled(*views(batch=(B,)))


def test_compiled_vmap_without_gradient_and_compiled_grad():
    torch._dynamo.reset()
    objective, (x, y) = OBJECTIVES["SigLIP"], views(batch=(B,))
    with torch.no_grad():
        close([torch.compile(vmap(objective), backend="eager", fullgraph=True)(x, y)], [vmap(objective)(x, y)])
    compiled = torch.compile(grad(objective), backend="aot_eager", fullgraph=True)
    close([compiled(x[0], y[0])], [grad(objective)(x[0], y[0])])
