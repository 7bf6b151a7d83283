// Products of small matrices by four warps together (wgmma, compute capability 9.0): 64 x 64 or 64 x 128 from 16 of K.
// The left factor is in registers, laid out for each warp's 16 rows as for `Products`, and so is the product; the right
// one is read from a shared tile in place. Products run while the warps go on: `begin_products` before,
// `await_products` after.
#pragma once
#include <type_traits>

#include "mma.cuh"

namespace mi::cuda {

// Columns of the product: 8 or 16 blocks, as those of `Products`.
template <int kBlocks>
using WarpgroupBlocks = float[kBlocks][4];

// Where a right factor begins in a shared tile: rows of 128 bytes, whose segments are permuted as those of
// `Products<16 bits>`, 8 rows after 8 rows from a 1024-byte boundary on. As rows, 8 of them for each block, the next 16
// of K lie 32 bytes on; as values, the rows being K, 2048 bytes, and the next 64 columns `next_columns` bytes.
__device__ __forceinline__ uint64_t described(uint32_t address, int next_columns) {
  constexpr uint64_t kPermuted = uint64_t{1} << 62, kNextEightRows = uint64_t{8 * kRowBytes / 16} << 32;
  return kPermuted | kNextEightRows | static_cast<uint64_t>(next_columns / 16) << 16 | (address & 0x3ffff) >> 4;
}

// The compiler must not move what it computes across this.
template <int kRows, int kBlocks>
__device__ __forceinline__ void settle(float (&values)[kRows][kBlocks][4]) {
#pragma unroll
  for (int k = 0; k < 4 * kRows * kBlocks; k++)
    asm volatile("" : "+f"(values[k / 4 / kBlocks][k / 4 % kBlocks][k % 4])::"memory");
}

// Registers written before are seen by the products.
__device__ __forceinline__ void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

// All products are there. The compiler takes them to be there since they began: it must not use them before this.
template <int kRows, int kBlocks>
__device__ __forceinline__ void await_products(float (&products)[kRows][kBlocks][4]) {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
  asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
  settle(products);
}

#define MI_BLOCK(to, c, k) to((c)[k][0]), to((c)[k][1]), to((c)[k][2]), to((c)[k][3])
#define MI_BLOCKS(to, c, k) MI_BLOCK(to, c, k), MI_BLOCK(to, c, k + 1), MI_BLOCK(to, c, k + 2), MI_BLOCK(to, c, k + 3)
#define MI_WGMMA_64(type, to, c, a, b, add, by_column)                                         \
  asm volatile(                                                                                \
      "{\n .reg .pred add;\n setp.ne.b32 add, %37, 0;\n"                                       \
      " wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type                             \
      " {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18," \
      " %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31},"                     \
      " {%32, %33, %34, %35}, %36, add, 1, 1, %38;\n}"                                         \
      : MI_BLOCKS(to, c, 0), MI_BLOCKS(to, c, 4)                                               \
      : "r"((a)[0]), "r"((a)[1]), "r"((a)[2]), "r"((a)[3]), "l"(b), "n"(add), "n"(by_column)   \
      : "memory")
#define MI_WGMMA_128(type, to, c, a, b, add, by_column)                                            \
  asm volatile(                                                                                    \
      "{\n .reg .pred add;\n setp.ne.b32 add, %69, 0;\n"                                           \
      " wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type                                \
      " {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18,"     \
      " %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36," \
      " %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54," \
      " %55, %56, %57, %58, %59, %60, %61, %62, %63},"                                             \
      " {%64, %65, %66, %67}, %68, add, 1, 1, %70;\n}"                                             \
      : MI_BLOCKS(to, c, 0), MI_BLOCKS(to, c, 4), MI_BLOCKS(to, c, 8), MI_BLOCKS(to, c, 12)        \
      : "r"((a)[0]), "r"((a)[1]), "r"((a)[2]), "r"((a)[3]), "l"(b), "n"(add), "n"(by_column)       \
      : "memory")
#define MI_WGMMA(type, to, c, a, b, add, by_column) \
  if constexpr (kBlocks == 8)                       \
    MI_WGMMA_64(type, to, c, a, b, add, by_column); \
  else                                              \
    MI_WGMMA_128(type, to, c, a, b, add, by_column)

// c = a b^T, or c += a b^T, b the described rows.
template <bool kAdd, class Element, int kBlocks>
__device__ __forceinline__ void multiply_rows(WarpgroupBlocks<kBlocks>& c, const uint32_t (&a)[4], uint64_t b) {
  constexpr bool kBfloat16 = std::is_same_v<Element, __nv_bfloat16>;
  if constexpr (kBfloat16 && kAdd) {
    MI_WGMMA("bf16", "+f", c, a, b, 1, 0);
  } else if constexpr (kBfloat16) {
    MI_WGMMA("bf16", "=f", c, a, b, 0, 0);
  } else if constexpr (kAdd) {
    MI_WGMMA("f16", "+f", c, a, b, 1, 0);
  } else {
    MI_WGMMA("f16", "=f", c, a, b, 0, 0);
  }
}
// The same for 64 columns, a the described rows in shared memory.
#define MI_WGMMA_SHARED(type, to, c, a, b, add)                                                \
  asm volatile(                                                                                \
      "{\n .reg .pred add;\n setp.ne.b32 add, %34, 0;\n"                                       \
      " wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type                             \
      " {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18," \
      " %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31},"                     \
      " %32, %33, add, 1, 1, 0, 0;\n}"                                                         \
      : MI_BLOCKS(to, c, 0), MI_BLOCKS(to, c, 4)                                               \
      : "l"(a), "l"(b), "n"(add)                                                               \
      : "memory")
template <bool kAdd, class Element>
__device__ __forceinline__ void multiply_rows(WarpgroupBlocks<8>& c, uint64_t a, uint64_t b) {
  constexpr bool kBfloat16 = std::is_same_v<Element, __nv_bfloat16>;
  if constexpr (kBfloat16 && kAdd) {
    MI_WGMMA_SHARED("bf16", "+f", c, a, b, 1);
  } else if constexpr (kBfloat16) {
    MI_WGMMA_SHARED("bf16", "=f", c, a, b, 0);
  } else if constexpr (kAdd) {
    MI_WGMMA_SHARED("f16", "+f", c, a, b, 1);
  } else {
    MI_WGMMA_SHARED("f16", "=f", c, a, b, 0);
  }
}
// c += a b, b the described values.
template <class Element, int kBlocks>
__device__ __forceinline__ void add_values(WarpgroupBlocks<kBlocks>& c, const uint32_t (&a)[4], uint64_t b) {
  if constexpr (std::is_same_v<Element, __nv_bfloat16>) {
    MI_WGMMA("bf16", "+f", c, a, b, 1, 1);
  } else {
    MI_WGMMA("f16", "+f", c, a, b, 1, 1);
  }
}
#undef MI_WGMMA_SHARED
#undef MI_WGMMA
#undef MI_WGMMA_128
#undef MI_WGMMA_64
#undef MI_BLOCKS
#undef MI_BLOCK

}  // namespace mi::cuda
