"""Queue and memory bank: what they hold, in which order, and that a state_dict carries all of it."""

import math

import pytest
import torch
from torch.nn import functional as F

from mi_ext import losses
from mi_ext.negatives import MemoryBank, Queue


def keys(first, n, dim=3):
    return torch.arange(first, first + n, dtype=torch.float32)[:, None].expand(n, dim)


def test_queue_is_first_in_first_out():
    queue = Queue(5, 3)
    contents = list(queue.queue)
    pointer = 0
    for first, n in ((0, 2), (10, 2), (20, 3), (30, 0), (40, 5), (50, 1)):
        queue.enqueue(keys(first, n))
        for value in range(first, first + n):
            contents[pointer % 5], pointer = torch.full((3,), float(value)), pointer + 1
        assert torch.equal(queue.queue, torch.stack(contents)) and queue.pointer == pointer % 5


@pytest.mark.parametrize("n", [6, 10, 13])
def test_of_more_keys_than_fit_the_last_stay(n):
    """As if they came one by one."""
    at_once, one_by_one = Queue(5, 3), Queue(5, 3)
    at_once.enqueue(keys(-2, 2)), one_by_one.enqueue(keys(-2, 2))
    at_once.enqueue(keys(0, n))
    for value in range(n):
        one_by_one.enqueue(keys(value, 1))
    assert torch.equal(at_once.queue, one_by_one.queue) and at_once.pointer == one_by_one.pointer


def test_queue_starts_as_unit_vectors_and_serves_moco():
    queue = Queue(16, 8, torch.Generator().manual_seed(0))
    torch.testing.assert_close(queue.queue.norm(dim=1), torch.ones(16))
    assert torch.equal(queue.queue, Queue(16, 8, torch.Generator().manual_seed(0)).queue)
    query = torch.randn(4, 8, requires_grad=True)
    loss = losses.MoCo()(query, query.detach(), queue.queue)
    loss.backward()
    queue.enqueue(F.normalize(query))
    assert not queue.queue.requires_grad and not list(queue.parameters())


def test_overwriting_the_queue_before_backward_is_never_silent():
    queue, query = Queue(16, 8), torch.randn(4, 8, requires_grad=True)
    loss = losses.MoCo()(query, query.detach(), queue.queue)
    queue.enqueue(query)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_memory_bank_is_a_moving_average_of_unit_length():
    bank = MemoryBank(6, 4, momentum=0.7)
    before, z, index = bank.memory.clone(), torch.randn(3, 4, requires_grad=True), torch.tensor([5, 0, 2])
    bank.update(index, z)
    for row, item in enumerate(index.tolist()):
        mixed = 0.7 * before[item] + 0.3 * z[row].detach()
        torch.testing.assert_close(bank.memory[item], mixed / mixed.square().sum().sqrt())
    untouched = torch.tensor([1, 3, 4])
    assert torch.equal(bank.memory[untouched], before[untouched]) and not bank.memory.requires_grad


def test_of_an_item_that_comes_twice_the_last_row_counts():
    """As an assignment in order would have it, but by construction: a thousand rows of few items, shuffled."""
    g = torch.Generator().manual_seed(0)
    index, z = torch.randint(13, (1000,), generator=g), torch.randn(1000, 4, generator=g)
    at_once, last_alone = MemoryBank(20, 4), MemoryBank(20, 4)
    last_alone.load_state_dict(at_once.state_dict())
    at_once.update(index, z)
    last = {item: row for row, item in enumerate(index.tolist())}
    last_alone.update(torch.tensor(list(last)), z[list(last.values())])
    assert torch.equal(at_once.memory, last_alone.memory)
    at_once.update(index[:0], z[:0])
    assert torch.equal(at_once.memory, last_alone.memory)


def test_memory_bank_starts_uniform():
    memory = MemoryBank(4000, 12, generator=torch.Generator().manual_seed(0)).memory
    assert memory.abs().max() <= 0.5 and memory.abs().max() > 0.499  # ±sqrt(3/12)
    assert memory.square().sum(1).mean().item() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("make", [lambda: Queue(7, 3), lambda: MemoryBank(7, 3)], ids=["queue", "memory bank"])
def test_state_is_saved_and_loaded(make):
    first, second = make(), make()
    if isinstance(first, Queue):
        first.enqueue(torch.randn(4, 3))
    else:
        first.update(torch.arange(4), torch.randn(4, 3))
    second.load_state_dict(first.state_dict())
    assert {name for name, _ in first.named_buffers()} == set(first.state_dict()) != set()
    for name, value in first.state_dict().items():
        assert torch.equal(second.state_dict()[name], value)
    if isinstance(first, Queue):
        for queue in (first, second):
            queue.enqueue(keys(0, 5))
        assert torch.equal(first.queue, second.queue)


ROWS, INDEX = torch.randn(2, 3), torch.tensor([0, 1])
BAD = {
    "size": (lambda: Queue(0, 3), ValueError, "^size: .*at least 1"),
    "size type": (lambda: MemoryBank(7.0, 3), TypeError, "^size: "),
    "dim": (lambda: Queue(7, 0), ValueError, "^dim: "),
    "momentum": (lambda: MemoryBank(7, 3, momentum=1.0), ValueError, "^momentum: "),
    "momentum nan": (lambda: MemoryBank(7, 3, momentum=math.nan), ValueError, "^momentum: "),
    "keys width": (lambda: Queue(7, 4).enqueue(ROWS), ValueError, "^keys: .*width 4"),
    "keys dtype": (lambda: Queue(7, 3).enqueue(ROWS.long()), TypeError, "^keys: "),
    "embeddings width": (lambda: MemoryBank(7, 4).update(INDEX, ROWS), ValueError, "^embeddings: .*width 4"),
    "index length": (lambda: MemoryBank(7, 3).update(INDEX[:1], ROWS), ValueError, "^index: "),
    "index range": (lambda: MemoryBank(7, 3).update(INDEX + 6, ROWS), ValueError, "^index: .*6 to 7"),
}


@pytest.mark.parametrize("name", BAD)
def test_errors_name_the_argument(name):
    call, kind, message = BAD[name]
    with pytest.raises(kind, match=message):
        call()
