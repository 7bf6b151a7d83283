// Around the loops of the critics: rows of features in the type that is computed in, copied so that tiles need no
// bounds, and parts of sums joined.
#pragma once
#include "element.cuh"
#include "enqueue.cuh"
#include "tile.cuh"

namespace mi::cuda {

// rows [count][h], of any dtype.
struct Rows {
  const void* data;
  Dtype dtype;
  int64_t count, pitch, width;

  __device__ __forceinline__ double at(int64_t row, int64_t k) const { return element(data, dtype, row * pitch + k); }
};

inline Rows rows_of(const Features& f, Dtype dtype, int64_t width) { return {f.data, dtype, f.rows, f.pitch, width}; }

// out [count][pitch] = sign times the rows, 0 beyond their width.
template <class Scalar>
__global__ void copy_scaled(Rows rows, Scalar sign, int64_t pitch, Scalar* out) {
  const int64_t at = global_thread(), row = at / pitch, k = at % pitch;
  if (row < rows.count) out[at] = k < rows.width ? sign * static_cast<Scalar>(rows.at(row, k)) : Scalar(0);
}

// out [units][pitch] = transform(x, unit) of the rows' x, transposed; 0 beyond the rows and their width. A block of
// 32 x 8 threads takes 32 rows and 32 units.
template <class Scalar, class Transform>
__global__ void transpose(Rows rows, Transform transform, int64_t units, int64_t pitch, Scalar* out) {
  __shared__ Scalar tile[32][33];
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * 32, first_unit = static_cast<int64_t>(blockIdx.y) * 32;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  for (int r = warp; r < 32; r += warps) {
    const int64_t row = first_row + r, unit = first_unit + lane;
    const bool inside = row < rows.count && unit < rows.width;
    tile[r][lane] = inside ? transform(static_cast<Scalar>(rows.at(row, unit)), unit) : Scalar(0);
  }
  __syncthreads();
  for (int u = warp; u < 32; u += warps) {
    const int64_t row = first_row + lane, unit = first_unit + u;
    if (row < pitch && unit < units) out[unit * pitch + row] = tile[lane][u];
  }
}

template <class Scalar, class Transform>
void enqueue_transpose(Queue& queue, const Rows& rows, const Transform& transform, int64_t units, int64_t pitch,
                       Scalar* out) {
  const dim3 grid(static_cast<unsigned>(ceil_div(pitch, 32)), static_cast<unsigned>(ceil_div(units, 32)));
  queue.launch(grid, 256, transpose<Scalar, Transform>, rows, transform, units, pitch, out);
}

// [count][rows][pitch].
template <class Scalar>
struct PartialSums {
  const Scalar* parts;
  int64_t count, rows, pitch;
};

// sums [rows][sum_pitch] += parts, of `rows` rows and `width` columns.
template <class Scalar>
__global__ void add_parts(PartialSums<Scalar> p, int64_t rows, int64_t width, Scalar* sums, int64_t sum_pitch) {
  const int64_t at = global_thread(), row = at / width, k = at % width;
  if (row >= rows) return;
  Scalar sum = sums[row * sum_pitch + k];
  for (int64_t part = 0; part < p.count; part++) sum += p.parts[(part * p.rows + row) * p.pitch + k];
  sums[row * sum_pitch + k] = sum;
}

template <class Scalar>
void enqueue_add_parts(Queue& queue, const PartialSums<Scalar>& p, int64_t rows, int64_t width, Scalar* sums,
                       int64_t sum_pitch) {
  queue.each(rows * width, add_parts<Scalar>, p, rows, width, sums, sum_pitch);
}

}  // namespace mi::cuda
