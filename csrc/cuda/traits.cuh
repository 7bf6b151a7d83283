// Shapes of the tiles for each element type.
#pragma once
#include "mma.cuh"

namespace mi::cuda {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / 32;
constexpr int kStages = 2;  // a step of a walk is used while the next is on its way

// A block of threads holds a tile of scores: warps in kWarpsDown x kWarpsAcross, each with 16 kRowBlocks rows (of the
// side that owns the block) and 8 kColumnBlocks columns (of the side that streams by). K is walked in chunks of 128
// bytes; an owner of at most kResident chunks stays in shared memory.
template <class Element_, int kRowBlocks_, int kColumnBlocks_, int kWarpsDown_, int kResident_, int kValueChunks_>
struct Tiling {
  using Element = Element_;
  using Math = Products<Element>;
  using Scalar = typename Math::Scalar;
  static constexpr int kChunks = 0;  // of d: told at run time
  static constexpr bool kPasses = false, kWarpgroup = false, kHoldsRows = false;
  static constexpr int kRowBlocks = kRowBlocks_, kColumnBlocks = kColumnBlocks_;
  static constexpr int kWarpsDown = kWarpsDown_, kWarpsAcross = kWarps / kWarpsDown_;
  static constexpr int kResident = kResident_;
  static constexpr int kValueChunks = kValueChunks_;  // of the features that a gradient's block accumulates; 0: none
  static constexpr int kWarpRows = 16 * kRowBlocks, kWarpColumns = 8 * kColumnBlocks;
  static constexpr int kRows = kWarpRows * kWarpsDown, kColumns = kWarpColumns * kWarpsAcross;
  static constexpr int kChunk = kRowBytes / static_cast<int>(sizeof(Element));  // elements
  static constexpr int kChunkBlocks = kChunk / 8;
  static constexpr int kPairSteps = 2 * kRowBytes / kChunkBlocks / kStepBytes;  // steps of K in two blocks of features
};

// The same where d is known to have so many chunks: addresses are constants, and sums begin without being set to zero.
template <class T, int kChunks_>
struct Chunked : T {
  static constexpr int kChunks = kChunks_;
};

// The same where a block of threads takes one block of the owner's rows after the other.
template <class T>
struct Passing : T {
  static constexpr bool kPasses = true;
};

// The same where the four warps multiply together (wgmma): 128 x 64, the features of streamed tiles all at once.
template <class Element>
struct WarpgroupTiling : Tiling<Element, 2, 8, 4, 4, 4> {
  static constexpr bool kWarpgroup = true, kHoldsRows = true;
};
template <class Element, int kColumnBlocks>
struct WarpgroupGradientTiling : Tiling<Element, 1, kColumnBlocks, 4, 2, 2> {  // 64 rows, 128 features
  static constexpr bool kWarpgroup = true, kHoldsRows = true;
};
template <class Element>
struct DeepWarpgroupGradientTiling : Tiling<Element, 1, 8, 4, 4, 4> {  // 64 x 64, 256 features; rows in shared memory
  static constexpr bool kWarpgroup = true;
};

// The numbers of chunks, most asked for, that kernels are compiled for.
template <int... kCounts>
struct KnownChunks {};

template <class Element>
struct Traits {
  using Known = KnownChunks<1, 2>;                      // d <= 128
  using KnownGradient = KnownChunks<1, 2, 4>;           // and 192 < d <= 256
  using Forward = Tiling<Element, 4, 8, 2, 2, 0>;       // 128 x 128, d <= 128 resident
  using Softplus = Tiling<Element, 2, 8, 4, 2, 0>;      // 128 x 64
  using Gradient = Tiling<Element, 2, 4, 4, 4, 2>;      // 128 x 32, d <= 256 resident, 128 features
  using WideGradient = Tiling<Element, 2, 8, 4, 4, 2>;  // 128 x 64, where weights leave the registers
};
template <>
struct Traits<float> {
  using Known = KnownChunks<4>;
  using KnownGradient = Known;
  using Forward = Tiling<float, 2, 8, 4, 4, 0>;  // 128 x 64, d <= 128 resident
  using Softplus = Forward;
  using Gradient = Tiling<float, 1, 4, 4, 4, 4>;  // 64 x 32, d <= 128 resident, 128 features
  using WideGradient = Gradient;
};
template <>
struct Traits<double> {
  using Known = KnownChunks<>;
  using KnownGradient = Known;
  using Forward = Tiling<double, 2, 4, 2, 4, 0>;  // 64 x 64, d <= 64 resident
  using Softplus = Forward;
  using Gradient = Tiling<double, 1, 4, 4, 4, 4>;  // 64 x 32, d <= 64 resident, 64 features
  using WideGradient = Gradient;
};

}  // namespace mi::cuda
