"""What is kept for the backward pass, and how far memory rises: O((n + m) d), never n·m."""

import json
import subprocess
import sys
import textwrap

import pytest
import torch

from mi_ext import DotScores, bounds, losses

MIB = 1 << 20
N, D = 2048, 64
OBJECTIVES = {
    "infonce": lambda x, y: bounds.infonce(DotScores(x, y, 0.3)),
    "ml_cpc": lambda x, y: bounds.ml_cpc(DotScores(x, y, 0.3), 0.5),
    "nwj": lambda x, y: bounds.nwj(DotScores(x, y, 0.3)),
    "decomposed": lambda x, y: bounds.decomposed_infonce(DotScores(x, y, 0.3), DotScores(x.flip(0), y, 0.2), 0.5),
    "cross-entropies": lambda x, y: DotScores(x, y, 0.3).cross_entropy(reduction="none").sum(),
    "InfoNCE": losses.InfoNCE(normalize=False),
    "CLIP": losses.CLIP(normalize=False),
    "SigLIP": losses.SigLIP(normalize=False),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_saved_for_backward(name):
    """At most x, y and a gradient of each, and vectors."""
    x, y = (torch.randn(N, D, requires_grad=True) for _ in range(2))
    saved = {}

    def pack(t):
        saved[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        OBJECTIVES[name](x, y)
    assert 0 < sum(saved.values()) <= 4 * (N + N) * D * 4 + 64 * (N + N) < N * N * 4


@pytest.mark.parametrize("retain", [False, True])
def test_kept_gradients_are_scaled_in_place(retain):
    """The backward pass has no second copy of them, unless there may be another pass."""
    x, y = (torch.randn(N, D, requires_grad=True) for _ in range(2))
    saved = set()

    def pack(t):
        saved.add(t.data_ptr())
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        loss = bounds.infonce(DotScores(x, y, 0.3))
    loss.backward(retain_graph=retain)
    assert [t.grad.data_ptr() in saved for t in (x, y)] == [not retain] * 2


SCRIPT = """
import json, torch
from mi_ext import DotScores

torch.set_num_threads(2)

def status(key):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))

def step(n, d, seed=0):
    g = torch.Generator().manual_seed(seed)
    x, y = (torch.nn.functional.normalize(torch.randn(n, d, generator=g)).requires_grad_() for _ in range(2))
    before = status("VmRSS")
    with open("/proc/self/clear_refs", "w") as reset:
        reset.write("5")
    loss = objective(x, y)
    loss.backward()
    return x, y, loss, status("VmHWM") - before

objective = {objective}
step(96, {d})
x, y, loss, rise = step({n}, {d})
rows = torch.arange(0, {n}, {n} // 7)
wide_x, wide_y, target = x.detach()[rows].double().requires_grad_(), y.detach().double(), rows
scores = {scale} * wide_x @ wide_y.T
(torch.nn.functional.cross_entropy(scores, target, reduction="sum") / {n}).backward()
error = x.grad[rows].double() - wide_x.grad
finite = all(t.isfinite().all().item() for t in (loss, x.grad, y.grad))
print(json.dumps(dict(rise=rise, finite=finite, error=(error.norm() / wide_x.grad.norm()).item(), loss=loss.item())))
"""


def measured(objective: str, n: int, d: int, scale: float) -> dict:
    """Rise of the resident set above the inputs, in a process of its own that has warmed up on a small problem."""
    script = textwrap.dedent(SCRIPT)
    for name, value in {"objective": objective, "n": n, "d": d, "scale": scale}.items():
        script = script.replace(f"{{{name}}}", str(value))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_peak_of_16384_pairs():
    """Eager torch needs 3 GiB; here loss, both gradients and all scratch are below 40 MB."""
    result = measured("lambda x, y: DotScores(x, y, 10.0).cross_entropy()", 16384, 128, 10.0)
    assert result["finite"] and result["error"] < 1e-5
    assert result["rise"] <= 40e6, f"{result['rise'] / 1e6:.1f} MB"


def test_peak_of_65536_pairs():
    result = measured("lambda x, y: DotScores(x, y, 10.0).cross_entropy()", 65536, 16, 10.0)
    assert result["finite"] and result["error"] < 1e-5
    assert result["rise"] <= 600e6, f"{result['rise'] / 1e6:.1f} MB"


WITHOUT_ROOM = """
import resource, torch
from mi_ext import DotScores

x, y, target = torch.ones(10_000_000, 1), torch.ones(1, 1), torch.zeros(10_000_000, dtype=torch.int64)
with open("/proc/self/statm") as pages:
    used = int(pages.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (20 << 20),) * 2)
DotScores(x, y, target=target).cross_entropy()
"""


def test_no_room_is_said_in_the_words_that_training_loops_look_for():
    done = subprocess.run([sys.executable, "-c", WITHOUT_ROOM], capture_output=True, text=True, timeout=300)
    message = done.stderr.splitlines()[-1]
    assert message.startswith("RuntimeError: mi_ext: no room on cpu for a tensor of shape [10000000")
    assert "CPU out of memory. Pass fewer" in message
