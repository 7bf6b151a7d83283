"""Threads that share the operators, children of os.fork, and workers of a DataLoader."""

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from objectives import BOUNDS, LOSSES, SOURCES, close, value_and_gradients, views
from torch.utils.data import DataLoader, Dataset

from mi_ext import losses, ops

NAMES = ["InfoNCE", "CLIP", "SigLIP", "gathered softplus", "joint", "importance_infonce"]
OBJECTIVES = LOSSES | BOUNDS | SOURCES


@pytest.fixture
def two_threads():
    """Those that OpenMP keeps waiting, in this process."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    losses.InfoNCE()(*views(256))
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", NAMES)
def test_threads_do_not_disturb_each_other(name, two_threads):
    problems = [views(48, seed=seed) for seed in range(8)]
    expected = [value_and_gradients(OBJECTIVES[name], *pair) for pair in problems]

    def solve(pair):
        torch.set_num_threads(2)
        return [value_and_gradients(OBJECTIVES[name], *pair) for _ in range(4)]

    with ThreadPoolExecutor(4) as pool:
        for results, truth in zip(pool.map(solve, problems), expected, strict=True):
            for ours in results:
                close(ours, truth)


def test_other_threads_run_meanwhile(two_threads):
    """The operators release the interpreter's lock: a thread that counts goes on while one call computes."""
    x, y = torch.randn(2, 10000, 64).unbind()
    begun, done, ticks = threading.Event(), threading.Event(), []

    def count():
        begun.set()
        while not done.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.001)

    thread = threading.Thread(target=count)
    thread.start()
    begun.wait()
    start = time.perf_counter()
    losses.InfoNCE(normalize=False)(x, y)
    stop = time.perf_counter()
    done.set()
    thread.join()
    margin = (stop - start) / 10  # not the ticks before and after the operator, where Python runs anyway
    assert sum(start + margin < tick < stop - margin for tick in ticks) > 5


def in_child(work) -> bytes:
    """What `work()` returns in a forked child; an error if it takes more than 30 s."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(write, work())
        finally:
            os._exit(0)
    os.close(write)
    deadline = time.monotonic() + 30
    while os.waitpid(pid, os.WNOHANG)[0] == 0:
        if time.monotonic() > deadline:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
            pytest.fail("a forked child waits for threads that it does not have")
        time.sleep(0.01)
    with os.fdopen(read, "rb") as pipe:
        return pipe.read()


def joint_operator(a, b):
    """Without the layer before it: torch's own matrix products wait for ever in a forked child with two threads."""
    network = None, None, torch.linspace(-1, 1, a.shape[1])
    return ops.joint_cross_entropy_sum(a, b, network, (torch.arange(len(a)), None, None, None), 0.0, 0.0)


FORKED = {name: OBJECTIVES[name] for name in NAMES if name != "joint"} | {"joint operator": joint_operator}


@pytest.mark.parametrize("name", FORKED)
def test_a_forked_child_computes_the_same(name, two_threads):
    def computed() -> bytes:
        return b"".join(t.numpy().tobytes() for t in value_and_gradients(FORKED[name], *views(48)))

    expected = computed()
    assert in_child(computed) == expected


class Problems(Dataset):
    """Values of a loss, computed where they are loaded."""

    def __len__(self):
        return 6

    def __getitem__(self, i):
        return losses.InfoNCE()(*views(48, seed=i))


def test_workers_of_a_loader(two_threads):
    loader = DataLoader(Problems(), batch_size=2, num_workers=2, multiprocessing_context="fork", timeout=60)
    expected = torch.stack([Problems()[i] for i in range(6)])
    torch.testing.assert_close(torch.cat(list(loader)), expected)
