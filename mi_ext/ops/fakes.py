"""Shapes of the operators' results without their values, for tracing and export. Imported by `mi_ext.ops`."""

import torch


def _doubles(like, *shape):
    return like.new_empty(shape, dtype=torch.float64)


def _gradient(of, wanted: bool):
    """Gradients of 16-bit inputs are float32; one that was not asked for is empty."""
    if not wanted:
        return _doubles(of, 0)
    return of.new_empty(of.shape, dtype=torch.promote_types(of.dtype, torch.float32))


@torch.library.register_fake("mi_ext::dot_statistics")
def _(x, y, scale, target, x_label, y_label, log_weight, columns, tf32=False):
    n, m = x.shape[0], y.shape[0]
    return _doubles(x, 0 if target is None else n), _doubles(x, n), _doubles(x, m if columns else 0)


@torch.library.register_fake("mi_ext::dot_clipped_lse")
def _(x, y, scale, bias, target, x_label, y_label, log_weight, clip, tf32=False):
    return _doubles(x, x.shape[0])


@torch.library.register_fake("mi_ext::dot_fused")
def _(x, y, scale, target, x_label, y_label, log_weight, external_positive, a, b, is_global, dy_wanted, tf32=False):
    n = x.shape[0]
    positive = _doubles(x, 0 if target is None else n)
    return _doubles(x), positive, _gradient(x, True), _gradient(y, dy_wanted), _doubles(x), _doubles(x, n)


@torch.library.register_fake("mi_ext::dot_gradient")
def _(x, y, scale, target, x_label, y_label, log_weight, z, a, c, grad_z, grad_a, grad_c, dy_wanted, tf32=False):
    return _gradient(x, True), _gradient(y, dy_wanted), _doubles(x)


@torch.library.register_fake("mi_ext::dot_softplus_sum")
def _(x, y, scale, bias, target, x_label, y_label, log_weight, dx_wanted, dy_wanted, tf32=False):
    positive = _doubles(x, 0 if target is None else x.shape[0])
    gradients = _gradient(x, dx_wanted), _gradient(y, dy_wanted)
    return _doubles(x), positive, *gradients, _doubles(x), _doubles(x)
