// Marks functions compiled for the host (once per instruction set, hence never merged by the linker) and for the
// device.
#pragma once

#if defined(__CUDACC__)
#define MI_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define MI_HOST_DEVICE static inline __attribute__((always_inline))
#endif
