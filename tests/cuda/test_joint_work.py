"""Counted work of the joint walks: no timing, but what no GPU can do without.

lanes: warp instructions of PTX · 32. One layer: per unit of a pair, further units of whole tiles, a comparison and a
multiply-add of scores or an addition of sums. Two layers: per multiply-add. The bounds are what is reached now.
"""

import pytest
import torch
from joint_problems import problem

TWO = 2  # instructions a unit


def counts(walks, kernel: str, shape, layers: int) -> list:
    """Of all launches of a kernel in the gradient of a matrix, or, where it makes scores, in the matrix."""
    p = problem(*shape, layers, "targets", torch.float32)
    tensors = tuple(p.tensors.values())
    if "scores" in kernel:
        walks.joint_matrix(*tensors)
    else:
        walks.joint_matrix_gradient(*tensors, torch.ones(shape[:2]))
    return [stats for stats in walks.walks.launches if kernel in stats.kernel]


def lanes(launches) -> int:
    return 32 * sum(stats.warp_instructions for stats in launches)


def test_scores_of_one_layer(joint_walks):
    small, large = (counts(joint_walks, "one_layer_scores", (128, 64, h), 1) for h in (32, 96))
    assert (lanes(large) - lanes(small)) / (128 * 64 * 64) <= 1.08 * TWO
    assert all(stats.shared_wavefronts == stats.shared_accesses for stats in large), "bank conflicts"


@pytest.mark.parametrize("queries_own,most", [(True, 1.15), (False, 1.135)])
def test_sums_of_one_layer(queries_own, most, joint_walks):
    shapes = [(64, m, 64) if queries_own else (m, 64, 64) for m in (64, 192)]
    kernel = f"one_layer_sumsIfLb{int(queries_own)}"
    small, large = (counts(joint_walks, kernel, shape, 1) for shape in shapes)
    assert (lanes(large) - lanes(small)) / (128 * 64 * 64) <= most * TWO
    assert all(stats.shared_wavefronts == stats.shared_accesses for stats in large), "bank conflicts"


def test_units_of_one_layer_cost_six_instructions(joint_walks):
    """Scores and both sums, with all that is around them, for a step of InfoNCE whose scores fit into a block."""
    p = problem(128, 128, 128, 1, "targets", torch.float32)
    joint_walks.joint_fused(*p.tensors.values(), *p.exclusions, 0.0, 0.0, False)
    loops = [stats for stats in joint_walks.walks.launches if "one_layer_s" in stats.kernel]
    assert len(loops) == 3  # one of scores: they are kept
    assert lanes(loops) / 128**3 <= 1.2 * 3 * TWO
    assert all(stats.atomics == 0 for stats in joint_walks.walks.launches)


@pytest.mark.parametrize(
    "kernel,shape,further,products,most_lanes",
    [
        ("two_layer_scores", (8, 8, 31), (8, 8, 95), 64 * 128, 1.25),
        ("two_layer_weight_sums", (1, 64, 60), (1, 192, 60), 2 * 64 * 128, 1.35),
        ("two_layer_hidden_sums", (8, 8, 60), (8, 24, 60), 2 * 128 * 128, 1.35),
    ],
)
def test_products_of_two_layers(kernel, shape, further, products, most_lanes, joint_walks):
    """64 · products: multiply-adds of the further tiles."""
    small, large = (counts(joint_walks, kernel, shape, 2) for shape in (shape, further))
    assert (lanes(large) - lanes(small)) / (products * 64) <= most_lanes
