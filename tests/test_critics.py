"""Critics as modules, with a positive for each query beside the candidates."""

import pytest
import torch

from mi_ext import critics

CRITICS = {
    "separable": critics.Separable(*(torch.nn.Linear(3, 4) for _ in "xy")),
    "cosine": critics.Cosine(0.1),
    "bilinear": critics.Bilinear(3, 3),
    "joint": critics.Joint(3, 3, 7),
}


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", CRITICS)
def test_a_positive_beside_the_candidates_goes_the_way_of_y(name):
    x, y = torch.randn(3, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    critic = CRITICS[name].double()
    beside, among = critic(x, y[3:], positive=y[:3]), critic(x, y)
    torch.testing.assert_close(beside.positive, among.positive, rtol=1e-9, atol=1e-9)
    assert beside.n_candidates == 3
