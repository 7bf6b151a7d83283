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


@torch.library.register_fake("mi_ext::unit_rows")
def _(z, shortest):
    return z.new_empty(z.shape), z.new_empty((*z.shape[:-1], 1))


@torch.library.register_fake("mi_ext::unit_rows_gradient")
def _(unit, length, upstream, shortest):
    return unit.new_empty(unit.shape)


@torch.library.register_fake("mi_ext::kept_gradient")
def _(x, y, scale, target, dx, dy, grad_loss, grad_positive):
    return dx.new_empty(dx.shape), dy.new_empty(dy.shape)


@torch.library.register_fake("mi_ext::gathered_lse")
def _(x, y, index, scale):
    return _doubles(x, x.shape[0])


@torch.library.register_fake("mi_ext::gathered_clipped_lse")
def _(x, y, index, scale, bias, clip):
    return _doubles(x, x.shape[0])


@torch.library.register_fake("mi_ext::gathered_fused")
def _(x, y, index, scale, positive, a, b, global_partition, candidate_gradient):
    gradients = _gradient(x, True), _gradient(y, candidate_gradient)
    return _doubles(x), *gradients, _doubles(x), _doubles(x, x.shape[0])


@torch.library.register_fake("mi_ext::gathered_gradient")
def _(x, y, index, scale, negative_lse, grad_negative_lse, candidate_gradient):
    return _gradient(x, True), _gradient(y, candidate_gradient), _doubles(x)


@torch.library.register_fake("mi_ext::gathered_softplus_sum")
def _(x, y, index, scale, bias, query_gradient, candidate_gradient):
    gradients = _gradient(x, query_gradient), _gradient(y, candidate_gradient)
    return _doubles(x), *gradients, _doubles(x), _doubles(x)


def _joint_gradients(a, b, inner_weight, inner_bias, last_weight, wanted=True):
    present = [(a, a), (b, b), (inner_weight, a), (inner_bias, a), (last_weight, a)]
    return tuple(_gradient(like if t is None else t, wanted and t is not None) for t, like in present)


@torch.library.register_fake("mi_ext::joint_statistics")
def _(a, b, inner_weight, inner_bias, last_weight, target, x_label, y_label, log_weight, columns):
    n, m = a.shape[0], b.shape[0]
    return _doubles(a, 0 if target is None else n), _doubles(a, n), _doubles(a, m if columns else 0)


@torch.library.register_fake("mi_ext::joint_clipped_lse")
def _(a, *rest):
    return _doubles(a, a.shape[0])


@torch.library.register_fake("mi_ext::joint_fused")
def _(a, b, inner_weight, inner_bias, last_weight, *rest):
    return _doubles(a), *_joint_gradients(a, b, inner_weight, inner_bias, last_weight)


@torch.library.register_fake("mi_ext::joint_gradient")
def _(a, b, inner_weight, inner_bias, last_weight, *rest):
    return _joint_gradients(a, b, inner_weight, inner_bias, last_weight)


@torch.library.register_fake("mi_ext::joint_softplus_sum")
def _(a, b, inner_weight, inner_bias, last_weight, bias, target, x_label, y_label, log_weight, gradient):
    gradients = _joint_gradients(a, b, inner_weight, inner_bias, last_weight, gradient)
    return _doubles(a), *gradients, _doubles(a)


@torch.library.register_fake("mi_ext::joint_matrix")
def _(a, b, inner_weight, inner_bias, last_weight):
    return a.new_empty((a.shape[0], b.shape[0]), dtype=torch.promote_types(a.dtype, torch.float32))


@torch.library.register_fake("mi_ext::joint_matrix_gradient")
def _(a, b, inner_weight, inner_bias, last_weight, upstream):
    return _joint_gradients(a, b, inner_weight, inner_bias, last_weight)


@torch.library.register_fake("mi_ext::importance_statistics")
def _(x1, x2, y, scale1, scale2, target, x_label, y_label, log_weight, tf32=False):
    n = x1.shape[0]
    n_positives = 0 if target is None else n
    return _doubles(x1, n_positives), _doubles(x1, n_positives), *(_doubles(x1, n) for _ in range(3))


@torch.library.register_fake("mi_ext::importance_fused")
def _(x1, x2, y, scale1, scale2, target, x_label, y_label, log_weight, *rest):
    n, candidate_gradient = x1.shape[0], rest[7]  # after the objective and detach_weights
    gradients = _gradient(x1, True), _gradient(x2, True), _gradient(y, candidate_gradient), _doubles(x1), _doubles(x1)
    return _doubles(x1), _doubles(x1, 3), *gradients, _doubles(x1, n), _doubles(x1, n)


@torch.library.register_fake("mi_ext::importance_gradient")
def _(x1, x2, y, scale1, scale2, target, x_label, y_label, log_weight, *rest):
    candidate_gradient = rest[11]  # after the statistics, their upstream gradients and detach_weights
    return _gradient(x1, True), _gradient(x2, True), _gradient(y, candidate_gradient), _doubles(x1), _doubles(x1)


def _ranking(like):
    """negative_lse, entropy, rank."""
    n = like.shape[0]
    return _doubles(like, n), _doubles(like, n), like.new_empty(n, dtype=torch.int64)


@torch.library.register_fake("mi_ext::dot_ranking")
def _(x, y, scale, target, x_label, y_label, log_weight, external_positive, tf32=False):
    return _doubles(x, 0 if target is None else x.shape[0]), *_ranking(x)


@torch.library.register_fake("mi_ext::gathered_ranking")
def _(x, y, index, scale, positive):
    return _ranking(x)


@torch.library.register_fake("mi_ext::joint_ranking")
def _(a, *rest):
    return _doubles(a, a.shape[0]), *_ranking(a)
