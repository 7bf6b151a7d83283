"""What the drop-ins share."""

import torch
from torch import Tensor

from .. import validation


def inverse(temperature: float | Tensor) -> float | Tensor:
    """1/temperature, the scale of scores. A tensor of one element of any shape is taken, as peers take it."""
    temperature = zero_dim(temperature)
    validation.scalar("temperature", temperature, non_zero=True)
    return 1.0 / temperature


def zero_dim(value):
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
