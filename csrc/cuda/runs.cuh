// 16 bytes at a time, for tiles that threads keep in registers: a thread has two runs of rows and one or two of
// columns.
#pragma once
#include "tile.cuh"

namespace mi::cuda {

template <class Scalar>
constexpr int kRun = 16 / static_cast<int>(sizeof(Scalar));

__device__ __forceinline__ void load_run(const float* from, float* to) {
  const float4 run = *reinterpret_cast<const float4*>(from);
  to[0] = run.x, to[1] = run.y, to[2] = run.z, to[3] = run.w;
}
__device__ __forceinline__ void load_run(const double* from, double* to) {
  const double2 run = *reinterpret_cast<const double2*>(from);
  to[0] = run.x, to[1] = run.y;
}

__device__ __forceinline__ void load_shared_run(uint32_t from, float* to) {
  asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(to[0]), "=f"(to[1]), "=f"(to[2]), "=f"(to[3])
               : "r"(from)
               : "memory");
}
__device__ __forceinline__ void load_shared_run(uint32_t from, double* to) {
  asm volatile("ld.shared.v2.f64 {%0, %1}, [%2];" : "=d"(to[0]), "=d"(to[1]) : "r"(from) : "memory");
}

__device__ __forceinline__ void store_whole_run(const float* from, float* to) {
  *reinterpret_cast<float4*>(to) = {from[0], from[1], from[2], from[3]};
}
__device__ __forceinline__ void store_whole_run(const double* from, double* to) {
  *reinterpret_cast<double2*>(to) = {from[0], from[1]};
}

// Anywhere, of a row with `left` elements.
__device__ __forceinline__ void store_run(const float* from, float* to, int64_t left) {
  if (left >= 4 && reinterpret_cast<uintptr_t>(to) % 16 == 0) return store_whole_run(from, to);
#pragma unroll
  for (int k = 0; k < 4; k++)
    if (k < left) to[k] = from[k];
}
__device__ __forceinline__ void store_run(const double* from, double* to, int64_t left) {
#pragma unroll
  for (int k = 0; k < 2; k++)
    if (k < left) to[k] = from[k];
}

// NaN of either stays.
__device__ __forceinline__ float larger(float a, float b) {
  float c;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(c) : "f"(a), "f"(b));
  return c;
}
__device__ __forceinline__ double larger(double a, double b) { return a > b || a != a ? a : b; }

// sum += a > b ? x : 0, as two instructions.
__device__ __forceinline__ void add_where_greater(float& sum, float a, float b, float x) {
  asm("{\n .reg .pred p;\n setp.gt.f32 p, %1, %2;\n @p add.f32 %0, %0, %3;\n}" : "+f"(sum) : "f"(a), "f"(b), "f"(x));
}
__device__ __forceinline__ void add_where_greater(double& sum, double a, double b, double x) {
  asm("{\n .reg .pred p;\n setp.gt.f64 p, %1, %2;\n @p add.f64 %0, %0, %3;\n}" : "+d"(sum) : "d"(a), "d"(b), "d"(x));
}

}  // namespace mi::cuda
