"""What losses refuse, and how they say it."""

import math

import pytest
import torch

from mi_ext import critics, losses
from mi_ext.negatives import Queue

INF = math.inf
A, B = torch.randn(2, 6, 4, dtype=torch.float64)
LABELS = torch.tensor([0, 0, 1, 1, 2, 2])


BAD = {
    "temperature 0": (lambda: losses.InfoNCE(0.0), ValueError, "^temperature: "),
    "temperature below 0": (lambda: losses.CLIP(-0.1), ValueError, "^temperature: .*positive number, got -0.1"),
    "temperature nan": (lambda: losses.SupCon(math.nan), ValueError, "^temperature: "),
    "bias": (lambda: losses.SigLIP(bias=INF), ValueError, "^bias: "),
    "grad_scale": (lambda: losses.MLCPC(grad_scale="alpha"), ValueError, "^grad_scale: .*'1/alpha'"),
    "alpha": (lambda: losses.MLCPC(alpha=6.0)(A, B), ValueError, "^alpha: "),
    "text shape": (lambda: losses.CLIP()(A, B[:3]), ValueError, r"^text: .*\(6, 4\).*\(3, 4\)"),
    "siglip shape": (lambda: losses.SigLIP()(A, B[:, :2]), ValueError, "^text: "),
    "views": (lambda: losses.NTXent()(A, B[:3]), ValueError, "^z1: "),
    "key shape": (lambda: losses.MLCPC()(A, B[:3]), ValueError, "^key: "),
    "a list": (lambda: losses.NTXent()(A.tolist(), B), TypeError, "^z0: .*list"),
    "module as queue": (lambda: losses.MoCo()(A, B, Queue(8, 4)), TypeError, "^queue: .*Queue"),
    "query": (lambda: losses.InfoNCE()(LABELS, B), TypeError, "^query: .*int64"),
    "labels": (lambda: losses.SupCon()(A, LABELS[:3]), ValueError, "^labels: "),
    "labels dtype": (lambda: losses.SupCon()(A, LABELS.double()), TypeError, "^labels: "),
    "no queries": (lambda: losses.InfoNCE()(A[:0], B), ValueError, "n = 0"),
    "no pairs": (lambda: losses.SigLIP()(A[:0], B[:0]), ValueError, "n = 0"),
    "no anchors": (lambda: losses.SupCon()(A[:0], LABELS[:0]), ValueError, "n = 0"),
    "one item": (lambda: losses.DCL()(A[:1], B[:1]), ValueError, "^z0: .*n ≥ 2"),
    "layers": (lambda: critics.Joint(2, 3, 4, layers=3), ValueError, "^layers: "),
    "joint width": (lambda: critics.Joint(2, 3, 4)(A.float(), B.float()), ValueError, "^x: .*width 2"),
    "cosine temperature": (lambda: critics.Cosine(0.0), ValueError, "^temperature: "),
}


@pytest.mark.parametrize("name", BAD)
def test_errors_name_the_argument(name):
    call, kind, message = BAD[name]
    with pytest.raises(kind, match=message):
        call()


def test_a_long_list_in_an_error_is_short():
    with pytest.raises(TypeError) as error:
        losses.InfoNCE()(torch.zeros(1000, 4).tolist(), B)
    assert len(str(error.value)) < 300


def test_a_temperature_that_learns_to_be_negative_is_an_error():
    temperature = torch.nn.Parameter(torch.tensor(0.01))
    loss = losses.InfoNCE(temperature)
    loss(A, B).backward()
    with torch.no_grad():
        temperature -= 0.02
    with pytest.raises(ValueError, match="^temperature: .*positive number"):
        loss(A, B)


def test_the_settings_are_in_the_representation():
    assert "temperature=0.07, normalize=True" in repr(losses.CLIP())
    assert "temperature=learned, normalize=False" in repr(
        losses.CLIP(torch.nn.Parameter(torch.tensor(0.07)), normalize=False)
    )
