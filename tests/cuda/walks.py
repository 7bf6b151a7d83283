"""The launchers of csrc/cuda/kernels.h on a simulated device, as the raw operators of csrc/ops/library.cpp."""

import ctypes

import numpy as np
import torch
from compiled import Build
from ptxsim import Device, Module
from structs import DotGradients, DotProblem, DotStatistics, Exclusions, Features, PartitionWeights, UpstreamGradients

DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
LAUNCH = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.POINTER(ctypes.c_uint),
    ctypes.c_uint,
    ctypes.c_size_t,
    ctypes.POINTER(ctypes.c_void_p),
)


class Walks:
    """Runs launchers; every launch is simulated at once, with all checks on."""

    def __init__(self, build: Build):
        self.library = ctypes.CDLL(str(build.library))
        self.kernels = {name: module[name] for module in map(Module.from_file, build.ptx) for name in module.kernels}
        self.multiprocessors, self.capability, self.tf32 = 1, 80, False
        self._device = Device(checks=True)
        self.launches = []  # Stats of the last call
        self._callback = LAUNCH(self._launch)
        self.library.set_launch(self._callback)

    def _launch(self, name, grid, threads, shared_bytes, arguments) -> int:
        try:
            kernel = self.kernels[name.decode()]
            values = [ctypes.string_at(arguments[k], p.size) for k, p in enumerate(kernel.fn.params)]
            stats = self._device.launch(kernel, tuple(grid[:3]), threads, values, shared_bytes=shared_bytes)
            self.launches.append(stats)
            return 0
        except Exception as error:  # would be lost on its way through C
            self._error = error
            return 719  # cudaErrorLaunchFailure

    def _call(self, name: str, shapes, arguments):
        """`shapes`: the structs that decide the size of the workspace; `arguments`: the walk's own, in order."""
        self.launches = []
        self._run(name, self._size(f"{name}_workspace", shapes), arguments)

    def _size(self, name: str, shapes) -> int:
        size = getattr(self.library, name)
        size.restype = ctypes.c_size_t
        return size(*map(ctypes.byref, shapes))

    def _run(self, name: str, workspace_bytes: int, arguments):
        workspace = self._device.empty((max(1, workspace_bytes),), np.uint8, "workspace")
        self._error = None
        values = [ctypes.c_uint64(a) if isinstance(a, int) else ctypes.byref(a) for a in arguments]
        code = getattr(self.library, name)(*values, ctypes.c_uint64(workspace.ptr))
        if self._error:
            raise self._error
        assert code == 0, f"{name} returned CUDA error {code}"

    # ---- memory

    def _place(self, t, name: str) -> int:
        """Copies what a tensor's layout spans to the device; the address of its first element."""
        if t is None or t.numel() == 0:
            return 0
        words = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}[t.element_size()]
        span = 1 + sum((n - 1) * s for n, s in zip(t.shape, t.stride(), strict=True))
        flat = (
            t.as_strided((span,), (1,))
            .contiguous()
            .view({2: torch.int16, 4: torch.int32, 8: torch.int64}[t.element_size()])
        )
        return self._device.to_device(flat.numpy().view(words), name).ptr

    def _doubles(self, *shape, name=""):
        return self._device.empty(shape, np.float64, name)

    def _problem(self, x, y, scale, bias, target, x_label, y_label, log_weight, tf32) -> DotProblem:
        self._device.reset()
        return DotProblem(
            Features(self._place(x, "x"), len(x), x.stride(0) if len(x) > 1 else x.shape[1]),
            Features(self._place(y, "y"), len(y), y.stride(0) if len(y) > 1 else y.shape[1]),
            x.shape[1],
            DTYPES[x.dtype],
            self._place(scale, "scale"),
            self._place(bias, "bias"),
            Exclusions(
                self._place(target, "target"),
                self._place(x_label, "x_label"),
                self._place(y_label, "y_label"),
                self._place(log_weight, "candidate_log_weight"),
            ),
            self.tf32 or tf32,
            self.multiprocessors,
            self.capability,
        )

    def _gradient(self, t, wanted: bool, name: str):
        return (
            self._device.empty(t.shape, np.float64 if t.dtype == torch.float64 else np.float32, name)
            if wanted
            else None
        )

    # ---- the raw operators

    def dot_statistics(self, x, y, scale, target, x_label, y_label, log_weight, columns, tf32=False):
        problem = self._problem(x, y, scale, None, target, x_label, y_label, log_weight, tf32)
        positive = None if target is None else self._doubles(len(x), name="positive")
        lse, column_lse = (
            self._doubles(len(x), name="lse"),
            self._doubles(len(y), name="column lse") if columns else None,
        )
        statistics = DotStatistics(_address(positive), lse.ptr, _address(column_lse), 0.0)
        self._call("statistics", (problem, statistics), (problem, statistics))
        return _tensor(positive), _tensor(lse), _tensor(column_lse)

    def dot_clipped_lse(self, x, y, scale, bias, target, x_label, y_label, log_weight, clip, tf32=False):
        problem = self._problem(x, y, scale, bias, target, x_label, y_label, log_weight, tf32)
        lse = self._doubles(len(x), name="lse")
        statistics = DotStatistics(0, lse.ptr, 0, clip)
        self._call("statistics", (problem, statistics), (problem, statistics))
        return _tensor(lse)

    def dot_fused(self, x, y, scale, target, x_label, y_label, log_weight, external_positive, a, b, *flags):
        is_global, candidate_gradient, tf32 = (*flags, False)[:3]
        problem = self._problem(x, y, scale, None, target, x_label, y_label, log_weight, tf32)
        positive = None if target is None else self._doubles(len(x), name="positive")
        lse, dpositive = self._doubles(len(x), name="lse"), self._doubles(len(x), name="positive gradient")
        loss, dscale = self._doubles(name="loss"), self._doubles(name="dscale")
        dx, dy = self._gradient(x, True, "dx"), self._gradient(y, candidate_gradient, "dy")
        statistics = DotStatistics(_address(positive), lse.ptr, 0, 0.0)
        gradients = DotGradients(dx.ptr, _address(dy), dscale.ptr, 0)
        weights = PartitionWeights(int(is_global), a, b)
        external = self._place(external_positive, "external positive")
        arguments = problem, weights, external, statistics, gradients, dpositive.ptr, loss.ptr
        self._call("fused", (problem, gradients), arguments)
        return tuple(map(_tensor, (loss, positive, dx, dy, dscale, dpositive)))

    def dot_gradient(self, x, y, scale, target, x_label, y_label, log_weight, positive, *rest):
        *upstream, candidate_gradient, tf32 = (*rest, False)[:7]
        problem = self._problem(x, y, scale, None, target, x_label, y_label, log_weight, tf32)
        lse, column_lse, dpositive, dlse, dcolumn_lse = (self._place(t.contiguous(), "upstream") for t in upstream)
        upstream = UpstreamGradients(lse, dlse, column_lse, dcolumn_lse, dpositive)
        dscale = self._doubles(name="dscale")
        dx, dy = self._gradient(x, True, "dx"), self._gradient(y, candidate_gradient, "dy")
        gradients = DotGradients(dx.ptr, _address(dy), dscale.ptr, 0)
        self._call("gradient", (problem, upstream, gradients), (problem, upstream, gradients))
        return _tensor(dx), _tensor(dy), _tensor(dscale)

    def dot_softplus_sum(self, x, y, scale, bias, target, x_label, y_label, log_weight, *flags):
        query_gradient, candidate_gradient, tf32 = (*flags, False)[:3]
        problem = self._problem(x, y, scale, bias, target, x_label, y_label, log_weight, tf32)
        positive = None if target is None else self._doubles(len(x), name="positive")
        value, dscale, dbias = (self._doubles(name=name) for name in ("value", "dscale", "dbias"))
        dx, dy = self._gradient(x, query_gradient, "dx"), self._gradient(y, candidate_gradient, "dy")
        gradients = DotGradients(_address(dx), _address(dy), dscale.ptr, dbias.ptr)
        self._call("softplus_sum", (problem, gradients), (problem, _address(positive), value.ptr, gradients))
        return tuple(map(_tensor, (value, positive, dx, dy, dscale, dbias)))


def _address(array) -> int:
    return 0 if array is None else array.ptr


def _tensor(array) -> torch.Tensor:
    if array is None:
        return torch.empty(0, dtype=torch.float64)
    assert array.initialised(), f"{array} is not written everywhere"
    return torch.from_numpy(array.numpy())
