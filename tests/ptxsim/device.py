"""Device: global memory, module variables, kernel launches."""
import re
import time
from collections import Counter
from dataclasses import dataclass

import numpy as np

from .counters import Stats
from .errors import UnsupportedInstruction
from .instructions import SIZE
from .machine import Batch, Program
from .memory import GLOBAL_BASE, INIT, OUT, POISON, RED_ZONE, DeviceArray, Space
from .parser import Sym


@dataclass(frozen=True)
class Checks:
    """Which checks a Device makes besides bounds and alignment, which are always on."""
    uninitialised: bool = True      # reads of never-written global or shared bytes
    races: bool = True              # shared-memory races between warps


class Device:
    """A simulated GPU.

    checks: True, False or a Checks.  counters: keep memory counters (instruction counts are always kept).
    max_lanes: how many threads run together as one NumPy vector (several CTAs when they are small).
    step_limit: scheduler steps (basic blocks run) per batch of CTAs before StepLimitExceeded."""

    def __init__(self, checks=True, counters=True, max_lanes=4096, step_limit=20_000_000, max_shared_bytes=227 * 1024):
        self.checks = checks if isinstance(checks, Checks) else Checks(bool(checks), bool(checks))
        self.counters, self.max_lanes, self.step_limit = counters, max_lanes, step_limit
        self.max_shared_bytes = max_shared_bytes
        self.heap = Space("global", 1 << 16, 1, GLOBAL_BASE, OUT)
        self._top = RED_ZONE
        self._programs, self._symbols, self._modules = {}, {}, []

    # ---- memory
    def _allocate(self, nbytes, label):
        start = self._top
        self._top = -(-(start + nbytes) // 256) * 256 + RED_ZONE
        self.heap.grow(self._top + 64)
        self.heap.shadow[start:start + nbytes] = POISON
        self.heap.allocations.append((start, nbytes, label))
        return start

    def empty(self, shape, dtype=np.float32, name=""):
        """Uninitialised device array (reading it before writing is an error); 256-byte aligned, with red zones."""
        return DeviceArray(self, shape, dtype, name)

    def zeros(self, shape, dtype=np.float32, name=""):
        a = DeviceArray(self, shape, dtype, name)
        a._span(True)[:] = INIT
        return a

    def to_device(self, array, name=""):
        """Copy a NumPy array to the device (bfloat16: pass uint16 bits, see f32_to_bf16)."""
        array = np.asarray(array)
        a = DeviceArray(self, array.shape, array.dtype, name)
        a.copy_from(array)
        return a

    def reset(self):
        """Frees every array; decoded kernels stay. Not for modules with variables of their own, which would move."""
        if self._symbols:
            raise ValueError("a module's variables lie between the arrays")
        self._top = RED_ZONE
        self.heap = Space("global", 1 << 16, 1, GLOBAL_BASE, OUT)

    def _module_variable(self, module, v):
        """Address of a .global/.const variable, allocated and initialised on first use."""
        key = (id(module), v.name)
        if key not in self._symbols:
            size = v.size or 0
            start = self._allocate(size, f"{v.space} variable {v.name}")
            self._symbols[key] = GLOBAL_BASE + start
            self._modules.append(module)
            n = SIZE[v.type]
            data = bytearray(size)
            for i, x in enumerate(v.init):
                if isinstance(x, Sym):
                    x = self._module_variable(module, module.variables[x.name]) + x.offset
                elif isinstance(x, tuple):
                    x = int(np.array([x[1]], f"f{n}").view(f"u{n}")[0])
                data[i * n:(i + 1) * n] = (x & ((1 << 8 * n) - 1)).to_bytes(n, "little")
            self.heap.bytes[start:start + size] = np.frombuffer(bytes(data), np.uint8)
            self.heap.shadow[start:start + size] = INIT
        return self._symbols[key]

    def symbol(self, module, name, dtype=np.uint8):
        """A __device__ / __constant__ variable of a module as a flat array view that can be read and set:
        returns a DeviceArray aliasing the variable."""
        v = next((x for x in module.variables.values() if x.name == name or f"{len(name)}{name}" in x.name), None)
        if v is None:
            raise KeyError(name)
        address = self._module_variable(module, v)
        a = DeviceArray.__new__(DeviceArray)
        a.device, a.dtype, a.nbytes, a.ptr, a.offset = self, np.dtype(dtype), v.size, address, address - GLOBAL_BASE
        a.shape = (v.size // a.dtype.itemsize,)
        return a

    # ---- launching
    def _pack(self, program, args):
        params = program.kernel.params
        if len(args) != len(params):
            raise TypeError(f"kernel {program.kernel.name} takes {len(params)} arguments, {len(args)} given")
        space = Space("param", program.param_size)
        space.allocations = [(o, p.size, f"parameter {p.name}") for o, p in zip(program.param_offsets, params)]
        for i, (arg, p, at) in enumerate(zip(args, params, program.param_offsets)):
            space.bytes[at:at + p.size] = np.frombuffer(self._argument(arg, p, i), np.uint8)
            space.shadow[at:at + p.size] = INIT
        return space

    @staticmethod
    def _argument(arg, p, i):
        if isinstance(arg, DeviceArray):
            arg = arg.ptr
        if hasattr(arg, "param_bytes"):
            raw = arg.param_bytes()
        elif isinstance(arg, (bytes, bytearray)):
            raw = bytes(arg)
        elif isinstance(arg, (np.ndarray, np.generic)) and not (isinstance(arg, np.integer) and not p.is_array):
            raw = np.asarray(arg).tobytes()
        elif p.is_array:
            raise TypeError(f"argument {i}: a struct of {p.size} bytes is needed (bytes or a NumPy structured scalar)")
        elif isinstance(arg, (float, int)) and p.type[0] == "f" or isinstance(arg, float) and p.type[0] == "b":
            raw = np.array([arg], {2: "f2", 4: "f4", 8: "f8"}[p.size]).tobytes()
        elif arg is None:
            raw = bytes(p.size)
        elif isinstance(arg, float):
            raise TypeError(f"argument {i}: a float for the integer parameter {p.name}")
        else:
            raw = (int(arg) & ((1 << 8 * p.size) - 1)).to_bytes(p.size, "little")
        if len(raw) != p.size:
            raise TypeError(f"argument {i}: {len(raw)} bytes given, parameter {p.name} has {p.size}")
        return raw

    def launch(self, kernel, grid, block, args=(), shared_bytes=0, cooperative=False):
        """Run a kernel to completion and return its Stats.

        grid, block: int or tuple of up to 3 ints (CTAs, threads).  args: DeviceArray, ints, floats (f32 or f64 as the
        parameter's size says), NumPy scalars, bytes or structured scalars for structs.  shared_bytes: dynamic shared
        memory.  cooperative: run all CTAs at once (grid barriers); otherwise CTAs run in batches, in order.
        Raises a SimError when the kernel misbehaves, TypeError/ValueError for a bad launch."""
        grid, block = (tuple(int(v) for v in np.atleast_1d(x)) + (1,) * (3 - len(np.atleast_1d(x))) for x in (grid, block))
        threads = int(np.prod(block))
        if not 0 < threads <= 1024 or min(grid) < 1:
            raise ValueError(f"bad launch shape: grid {grid}, block {block}")
        self._check_directives(kernel.fn, grid, block)
        t0 = time.perf_counter()
        key = (id(kernel.module), kernel.name)
        program = self._programs.get(key)
        if program is None:
            program = self._programs[key] = Program(self, kernel)
            self._modules.append(kernel.module)     # keep it alive: ids are keys
        total = (program.dynamic_base + shared_bytes) if shared_bytes else program.sizes["shared"]
        if total > self.max_shared_bytes:
            raise ValueError(f"{total} bytes of shared memory asked for, {self.max_shared_bytes} exist")
        params = self._pack(program, args)
        stats = Stats(kernel=kernel.name, threads_per_cta=threads, ctas=int(np.prod(grid)), shared_bytes=total)
        stats._read = np.zeros(len(self.heap.bytes) // 32 + 1, bool)
        stats._written = np.zeros(len(self.heap.bytes) // 32 + 1, bool)
        n = len(program.blocks)
        program.count, program.lane_count = np.zeros(n, np.int64), np.zeros(n, np.int64)
        step = stats.ctas if cooperative else max(1, self.max_lanes // (-(-threads // 32) * 32))
        with np.errstate(all="ignore"):
            for first in range(0, stats.ctas, step):
                last = min(first + step, stats.ctas)
                Batch(self, program, grid, block, first, last, params, shared_bytes, stats).run()
        self._collect(program, stats)
        stats.seconds = time.perf_counter() - t0
        return stats

    @staticmethod
    def _check_directives(fn, grid, block):
        """Launch bounds that the kernel was compiled with."""
        given = {d: [int(x) for x in re.findall(r"\d+", v)] for d, v in re.findall(r"\.(\w+)\s+([\d, ]+)", fn.directives)}
        for name, shape in given.items():
            threads = int(np.prod(shape))
            if name == "reqntid" and tuple(shape) + (1,) * (3 - len(shape)) != block:
                raise ValueError(f"kernel {fn.name} needs blocks of {shape} threads, not {block}")
            if name == "maxntid" and int(np.prod(block)) > threads:
                raise ValueError(f"kernel {fn.name} was compiled for at most {threads} threads per block, not {block}")
            if name == "reqnctapercluster" and threads > 1:
                raise UnsupportedInstruction(f"kernel {fn.name}: clusters of {shape} CTAs are not simulated")

    @staticmethod
    def _collect(program, stats):
        for b, warps, lanes in zip(program.blocks, program.count.tolist(), program.lane_count.tolist()):
            if warps:
                for k, n in b.classes.items():
                    stats.instructions[k] += n * warps
                for k, n in b.opcodes.items():
                    stats.opcodes[k] += n * warps
                stats.thread_instructions += len(b.instrs) * lanes
                stats.mufu += b.mufu * lanes
        stats.instructions, stats.opcodes = Counter(dict(stats.instructions.most_common())), Counter(dict(stats.opcodes.most_common()))
