"""What accelerators can do at most, from their makers' data sheets or measured, and the roofline that follows."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Chip:
    """What one device of JAX can do.

    Attributes:
      kind: what `jax.Device.device_kind` says.
      bfloat16: peak FLOP/s of matrix products of bfloat16; None: it has no unit for them.
      float32: the same of float32 arrays at JAX's default precision: one bfloat16 pass on TPUs, TF32 on NVIDIA GPUs
        from Ampere on.
      bandwidth: of its memory, bytes/s.
      memory: bytes.
    """

    kind: str
    bfloat16: float | None
    float32: float
    bandwidth: float
    memory: float

    def peak(self, dtype: str) -> float | None:
        """Return the peak FLOP/s for arrays of ``dtype``, float32 or bfloat16, if known."""
        return {"bfloat16": self.bfloat16, "float32": self.float32}[dtype]


def _tpu(kind: str, teraflops: float, gigabytes_per_second: float, gibibytes: float) -> Chip:
    return Chip(kind, teraflops * 1e12, teraflops * 1e12, gigabytes_per_second * 1e9, gibibytes * 2**30)


def _gpu(kind: str, tensor: float | None, float32: float, gigabytes_per_second: float, gigabytes: float) -> Chip:
    return Chip(kind, tensor and tensor * 1e12, float32 * 1e12, gigabytes_per_second * 1e9, gigabytes * 1e9)


# Google Cloud's pages "TPU v3" to "TPU v6e", key chip specifications; a device of JAX is half a chip on v3.
TPUS: dict[str, Chip] = {
    "v3": _tpu("TPU v3", 123 / 2, 900 / 2, 32 / 2),
    "v4": _tpu("TPU v4", 275, 1200, 32),
    "v5e": _tpu("TPU v5 lite", 197, 819, 16),
    "v5p": _tpu("TPU v5", 459, 2765, 95),
    "v6e": _tpu("TPU v6 lite", 918, 1640, 32),
}
# NVIDIA's data sheets of each product, dense (without the factor of 2 for sparse matrices). Columns: bfloat16 on tensor
# cores; float32, which is TF32 on tensor cores from Ampere on; memory bandwidth and size.
GPUS: dict[str, Chip] = {
    "v100": _gpu("Tesla V100-SXM2-16GB", None, 15.7, 900, 16),
    "t4": _gpu("Tesla T4", None, 8.1, 320, 16),
    "a10": _gpu("NVIDIA A10", 125, 62.5, 600, 24),
    "a100_40": _gpu("NVIDIA A100-SXM4-40GB", 312, 156, 1555, 40),
    "a100": _gpu("NVIDIA A100-SXM4-80GB", 312, 156, 2039, 80),
    "l4": _gpu("NVIDIA L4", 121, 60, 300, 24),
    "h100": _gpu("NVIDIA H100 80GB HBM3", 989, 494, 3350, 80),
    "h200": _gpu("NVIDIA H200", 989, 494, 4800, 141),
}
CHIPS: dict[str, Chip] = TPUS | GPUS


@dataclasses.dataclass(frozen=True)
class Processor:
    """What XLA's compiler needs to know of an NVIDIA GPU.

    Attributes:
      capability: CUDA compute capability, major and minor.
      cores: streaming multiprocessors.
      lanes: float32 units of each.
      clock: GHz, highest.
      l2: bytes of the cache.
      threads: most on each core.
      shared, block_shared: bytes of shared memory of each core, and the most that one block can have.
    """

    capability: tuple[int, int]
    cores: int
    lanes: int
    clock: float
    l2: int
    threads: int
    shared: int
    block_shared: int

    def target_config(self, chip: Chip) -> str:
        """Return the description of ``chip`` that XLA compiles for, a ``GpuTargetConfigProto`` as text."""
        major, minor = self.capability
        return f"""
        gpu_device_info {{
          threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: {self.threads}
          shared_memory_per_block: 49152 shared_memory_per_core: {self.shared}
          shared_memory_per_block_optin: {self.block_shared}
          core_count: {self.cores} fpus_per_core: {self.lanes} clock_rate_ghz: {self.clock}
          block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
          thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
          memory_bandwidth: {chip.bandwidth:.0f} l2_cache_size: {self.l2} device_memory_size: {chip.memory:.0f}
          cuda_compute_capability {{ major: {major} minor: {minor} }}
          registers_per_core_limit: 65536 registers_per_block_limit: 65536
        }}
        platform_name: "CUDA"
        dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
        device_description_str: "{chip.kind}"
        """


# NVIDIA's architecture white papers (cores, clock, cache) and the CUDA programming guide, "technical specifications per
# compute capability" (lanes, threads, shared memory).
PROCESSORS: dict[str, Processor] = {
    "v100": Processor((7, 0), 80, 64, 1.53, 6 << 20, 2048, 96 << 10, 96 << 10),
    "t4": Processor((7, 5), 40, 64, 1.59, 4 << 20, 1024, 64 << 10, 64 << 10),
    "a10": Processor((8, 6), 72, 128, 1.695, 6 << 20, 1536, 100 << 10, 99 << 10),
    "a100_40": Processor((8, 0), 108, 64, 1.41, 40 << 20, 2048, 164 << 10, 163 << 10),
    "a100": Processor((8, 0), 108, 64, 1.41, 40 << 20, 2048, 164 << 10, 163 << 10),
    "l4": Processor((8, 9), 58, 128, 2.04, 48 << 20, 1536, 100 << 10, 99 << 10),
    "h100": Processor((9, 0), 132, 128, 1.98, 50 << 20, 2048, 228 << 10, 227 << 10),
    "h200": Processor((9, 0), 132, 128, 1.98, 50 << 20, 2048, 228 << 10, 227 << 10),
}


def find(kind: str) -> Chip | None:
    """Return the chip whose ``device_kind`` is ``kind``, None if the table has none."""
    return next((chip for chip in CHIPS.values() if chip.kind == kind), None)


@dataclasses.dataclass(frozen=True)
class Roofline:
    """The least time that a program can take on a chip: its arithmetic at peak, or its memory traffic at full rate.

    Attributes:
      compute, memory: seconds of each.
    """

    compute: float
    memory: float

    @classmethod
    def of(cls, flops: float, num_bytes: float, peak: float, bandwidth: float) -> Roofline:
        """Return the roofline of a program of ``flops`` operations that moves ``num_bytes``."""
        return cls(flops / peak, num_bytes / bandwidth)

    @property
    def seconds(self) -> float:
        """The larger of the two."""
        return max(self.compute, self.memory)

    @property
    def bound(self) -> str:
        """Which of the two it is."""
        return "compute" if self.compute > self.memory else "memory"


def measured_product(dtype: str) -> float:
    """Return the FLOP/s of a large product of square matrices of a type on JAX's first device."""
    size = 1024 if jax.default_backend() == "cpu" else 8192
    matrix = jnp.ones((size, size), jnp.dtype(dtype))
    return 2 * size**3 / _fastest(jax.jit(jnp.matmul), matrix, matrix)


def measured_copy() -> float:
    """Return the bytes/s at which JAX's first device reads and writes a large array."""
    numbers = jnp.ones((2**26 if jax.default_backend() == "cpu" else 2**28,), jnp.float32)
    return 2 * numbers.nbytes / _fastest(jax.jit(jnp.negative), numbers)


def _fastest(program: Callable[..., jax.Array], *arrays: jax.Array) -> float:
    """Return the seconds of the fastest of several calls."""
    seconds = []
    for _ in range(6):
        started = time.perf_counter()
        program(*arrays).block_until_ready()
        seconds.append(time.perf_counter() - started)
    return min(seconds)
