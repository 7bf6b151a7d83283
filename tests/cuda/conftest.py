"""The operators of `mi_ext.ops` with CUDA kernels under them, on a simulated device."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # problems, ptxsim

from compiled import built
from gathered_walks import GatheredWalks
from importance_walks import ImportanceWalks
from joint_walks import JointWalks
from ptxsim.toolchain import find_nvcc
from ranking_walks import RankingWalks
from walks import Walks

import mi_ext.ops.dot
import mi_ext.ops.dot_losses
import mi_ext.ops.gathered
import mi_ext.ops.importance
import mi_ext.ops.joint
import mi_ext.ops.ranking


@pytest.fixture(scope="session")
def build():
    if find_nvcc() is None:
        pytest.skip("nvcc was not found (set NVCC or CUDA_HOME)")
    return built()


@pytest.fixture(scope="session")
def session_walks(build):
    return Walks(build)


@pytest.fixture
def walks(session_walks, monkeypatch):
    """mi_ext.ops runs on the simulated device: a GPU of one multiprocessor, products of float32 exact."""
    monkeypatch.setattr(mi_ext.ops.dot, "_raw", session_walks)
    monkeypatch.setattr(mi_ext.ops.dot_losses, "_raw", session_walks)
    monkeypatch.setattr(mi_ext.ops.importance, "_raw", ImportanceWalks(session_walks))
    monkeypatch.setattr(mi_ext.ops.ranking, "_raw", RankingWalks(session_walks))
    session_walks.multiprocessors, session_walks.capability, session_walks.tf32 = 1, 80, False
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield session_walks
    torch.set_num_threads(threads)


@pytest.fixture
def gathered_walks(walks, monkeypatch):
    """The same for the operators on gathered scores."""
    gathered = GatheredWalks(walks)
    monkeypatch.setattr(mi_ext.ops.gathered, "_raw", gathered)
    return gathered


@pytest.fixture
def joint_walks(walks, monkeypatch):
    """The same for the operators on joint critics."""
    joint = JointWalks(walks)
    monkeypatch.setattr(mi_ext.ops.joint, "_raw", joint)
    return joint
