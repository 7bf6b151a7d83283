// Rows read by the lanes of a warp, 16 bytes of a row each, whatever their alignment.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "gathered_walk.h"
#include "rows.cuh"

namespace mi::cuda {

template <class Element>
struct ScalarOf {
  using type = float;
};
template <>
struct ScalarOf<double> {
  using type = double;
};

// 16 bytes of a row, 0 beyond its end.
struct Piece {
  uint32_t word[4];
};
template <class Element>
constexpr int kElements = kPiece / static_cast<int>(sizeof(Element));  // of a piece

__device__ __forceinline__ float element(const Piece& p, int k, float) { return __uint_as_float(p.word[k]); }
__device__ __forceinline__ double element(const Piece& p, int k, double) {
  return __hiloint2double(p.word[2 * k + 1], p.word[2 * k]);
}
__device__ __forceinline__ float element(const Piece& p, int k, __nv_bfloat16) {
  return __uint_as_float(k % 2 ? p.word[k / 2] & 0xffff0000u : p.word[k / 2] << 16);
}
__device__ __forceinline__ float element(const Piece& p, int k, __half) {
  return __half2float(__ushort_as_half(static_cast<unsigned short>(p.word[k / 2] >> (k % 2 ? 16 : 0))));
}

__device__ __forceinline__ float feature(float x) { return x; }
__device__ __forceinline__ double feature(double x) { return x; }
__device__ __forceinline__ float feature(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float feature(__half x) { return __half2float(x); }

template <int kUnit>
__device__ __forceinline__ uint32_t load_word(const char* row, int at, int bytes) {
  if constexpr (kUnit == 4) return at < bytes ? __ldg(reinterpret_cast<const uint32_t*>(row + at)) : 0;
  const auto* half = reinterpret_cast<const unsigned short*>(row + at);
  const uint32_t low = at < bytes ? __ldg(half) : 0, high = at + 2 < bytes ? __ldg(half + 1) : 0;
  return low | high << 16;
}

template <int kUnit>
__device__ __forceinline__ Piece load_piece(const char* row, int at, int bytes) {
  Piece piece;
  if constexpr (kUnit == kPiece) {
    const uint4 v = at < bytes ? __ldg(reinterpret_cast<const uint4*>(row + at)) : uint4{};
    piece = {{v.x, v.y, v.z, v.w}};
  } else {
#pragma unroll
    for (int k = 0; k < 4; k++) piece.word[k] = load_word<kUnit>(row, at + 4 * k, bytes);
  }
  return piece;
}

// Pieces `at`, `at` + 512, ... of each row; a negative row is no row, and 0.
template <int kUnit, class Index, int kRows, int kPieces>
__device__ __forceinline__ void load_rows_by(Piece (&out)[kRows][kPieces], const GatheredRows& rows,
                                             const Index (&row)[kRows], int at, int row_bytes) {
#pragma unroll
  for (int r = 0; r < kRows; r++) {
    const char* data = rows.data + row[r] * rows.pitch;
    const int bytes = row[r] < 0 ? 0 : row_bytes;
#pragma unroll
    for (int k = 0; k < kPieces; k++) out[r][k] = load_piece<kUnit>(data, at + k * 32 * kPiece, bytes);
  }
}

}  // namespace mi::cuda
