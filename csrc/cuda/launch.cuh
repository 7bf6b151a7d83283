// Launches of walks over one element type.
#pragma once
#include <algorithm>

#include "pairwise.h"
#include "tile.cuh"

namespace mi::cuda {

// The most that kernels over T ask for, whatever d is: what one thread allows a kernel, another must not take back
// before its launch.
template <class T>
int most_shared_bytes() {
  int most = 0;
  for (int chunks = 1; chunks <= T::kResident + 1; chunks++)
    most = std::max(most, typename Ring<T>::Layout(chunks * kRowBytes).bytes());
  return most;
}

template <class T, class Params>
cudaError_t launch_on(dim3 grid, void (*kernel)(Params), const Params& p, cudaStream_t stream) {
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most_shared_bytes<T>());
  if (error != cudaSuccess) return error;
  kernel<<<grid, kThreads, typename Ring<T>::Layout(p.walk.row_bytes).bytes(), stream>>>(p);
  return cudaGetLastError();
}
template <class T, class Params>
cudaError_t launch(void (*kernel)(Params), const Params& p, int splits, int column_groups, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(ceil_div(p.walk.owner.rows, T::kRows)), splits, column_groups);
  return launch_on<T>(grid, kernel, p, stream);
}

template <class T>
constexpr TileShape shape_of = {T::kRows, T::kColumns, T::kWarpsAcross, T::kWarpsDown};

// Runs `call` with the tiling for d: Chunked<T, chunks> of a known number of chunks, or Any.
template <class T, class Any = T, int... kCounts, class Call>
cudaError_t with_chunks(KnownChunks<kCounts...>, int64_t row_bytes, Call&& call) {
  cudaError_t error = cudaSuccess;
  const bool known =
      ((ceil_div(row_bytes, kRowBytes) == kCounts && (error = call(Chunked<T, kCounts>{}), true)) || ...);
  return known ? error : call(Any{});
}

}  // namespace mi::cuda
