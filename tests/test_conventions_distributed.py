"""DistributedDataParallel and fully_shard around a model with a loss in it, whose temperature is learned."""

import pytest
import torch
import torch.distributed as dist
from objectives import D, close, views
from torch import multiprocessing, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from mi_ext import losses

WORLD = 2


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encode = nn.Linear(D, D)
        self.clip = losses.CLIP(nn.Parameter(torch.tensor(0.2)))
        self.siglip = losses.SigLIP(nn.Parameter(torch.tensor(0.3)), nn.Parameter(torch.tensor(-1.0)))

    def forward(self, x, y):
        return self.clip(self.encode(x), y) + self.siglip(self.encode(x), y)


def wrapped(how: str) -> nn.Module:
    if how == "DDP":
        return DistributedDataParallel(Model())
    model = Model()
    scalars = {p for p in model.parameters() if p.dim() == 0}  # fully_shard takes none: there is nothing to shard
    return fully_shard(model, mesh=init_device_mesh("cpu", (WORLD,)), ignored_params=scalars)


def gradients(model: nn.Module) -> list[torch.Tensor]:
    """The mean over all processes; those of scalars, which fully_shard leaves alone, by hand."""
    found = []
    for p in model.parameters():
        g = p.grad
        if hasattr(g, "full_tensor"):
            g = g.full_tensor()
        elif not isinstance(model, DistributedDataParallel):
            dist.all_reduce(g)
            g = g / WORLD
        found.append(g.clone())
    return found


def run(rank: int, store: str, results) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=WORLD)
    for how in ("DDP", "fully_shard"):
        model = wrapped(how)
        model(*views(seed=rank)).backward()
        found = gradients(model)
        if rank == 0:
            results[how] = [g.numpy() for g in found]
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Gradients of the first of two processes, each with a batch of its own."""
    with multiprocessing.Manager() as manager:
        results = manager.dict()
        store = str(tmp_path_factory.mktemp("store") / "file")
        multiprocessing.spawn(run, (store, results), nprocs=WORLD)
        return dict(results)


@pytest.mark.parametrize("how", ["DDP", "fully_shard"])
def test_gradients_are_those_of_one_process(how, found):
    model = Model()
    (sum(model(*views(seed=rank)) for rank in range(WORLD)) / WORLD).backward()
    close([torch.from_numpy(g) for g in found[how]], [p.grad for p in model.parameters()])
