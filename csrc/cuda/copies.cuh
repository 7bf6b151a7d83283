// Asynchronous copies to shared memory, and what keeps the compiler from holding addresses and values in registers.
#pragma once
#include <cstdint>

namespace mi::cuda {

// `bytes` of `size` are copied, the rest is zero.
template <int kSize>
__device__ __forceinline__ void copy_async(uint32_t to, const void* from, int bytes) {
  if constexpr (kSize == 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %3, %2;" ::"r"(to), "l"(from), "r"(bytes), "n"(kSize)
                 : "memory");
}
// All of `size` or nothing: one of two instructions, where a number of bytes takes the branches of every number.
template <int kSize>
__device__ __forceinline__ void copy_or_zero(uint32_t to, const void* from, bool present) {
  if (present)
    copy_async<kSize>(to, from, kSize);
  else
    copy_async<kSize>(to, from, 0);
}
__device__ __forceinline__ void close_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kPending>
__device__ __forceinline__ void await_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}
__device__ __forceinline__ void await_all_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }
// What this thread has copied or stored in shared memory may be read by wgmma, once a barrier is passed.
__device__ __forceinline__ void show_copies_to_warpgroups() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
__device__ __forceinline__ uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// a b + c, one instruction
__device__ __forceinline__ const char* multiply_add(uint32_t a, uint32_t b, const char* c) {
  uint64_t r;
  asm("mad.wide.u32 %0, %1, %2, %3;" : "=l"(r) : "r"(a), "r"(b), "l"(c));
  return reinterpret_cast<const char*>(r);
}

// Nothing is known of its value: what follows from it is computed where it is used, not ahead of a loop.
__device__ __forceinline__ uint32_t opaque(uint32_t x) {
  asm volatile("" : "+r"(x));
  return x;
}

// What is known of rows and columns is read from shared memory again afterwards, not kept in registers.
__device__ __forceinline__ void read_again() { asm volatile("" ::: "memory"); }

__host__ __device__ inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace mi::cuda
