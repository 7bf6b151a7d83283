"""What the drop-ins share."""

from typing import TypeVar

import torch
from torch import Tensor

from .. import validation
from ..log_domain import Weight

_Parameter = TypeVar("_Parameter", Weight, Weight | None)


def inverse(temperature: Weight) -> Weight:
    """1/temperature, the scale of scores. A tensor of one element of any shape is taken, as peers take it."""
    temperature = zero_dim(temperature)
    validation.scalar("temperature", temperature, non_zero=True)
    return 1.0 / temperature


def zero_dim(value: _Parameter) -> _Parameter:
    """A parameter of shape (1,), as peers keep scales and biases, as the 0-dim tensor that scores take."""
    return value.reshape(()) if isinstance(value, Tensor) and value.numel() == 1 else value


def in_peer_dtype(value: Tensor, *inputs: Tensor) -> Tensor:
    """In the dtype that a peer returns: that of the inputs, under autocast at least float32 (its cross-entropy is)."""
    dtype = inputs[0].dtype
    for t in inputs[1:]:
        dtype = torch.promote_types(dtype, t.dtype)
    if torch.is_autocast_enabled(value.device.type):
        dtype = torch.promote_types(dtype, torch.float32)
    return value.to(dtype)
