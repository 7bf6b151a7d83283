// What is linear in n and m, before and after the walks. Torch has it in several operations, each of which takes as
// long as the walk of a small batch.
#pragma once
#include "../core/params.h"

namespace mi {

// u = z / r, r = max(|z|, shortest), for rows z [n, d].
struct UnitRows {
  int64_t n = 0, d = 0;
  Dtype dtype = Dtype::kFloat32;  // or double
  double shortest = 0;
  int threads = 1;
};
void unit_rows(const UnitRows& p, const void* z, void* unit, void* length);
// dz = (du - u <u, du> [r > shortest]) / r.
void unit_rows_gradient(const UnitRows& p, const void* unit, const void* length, const void* upstream, void* gradient);

// The gradient of L = f(loss, positives) from that of the loss, kept since the forward pass; g_i = dL/dp_i:
//   dx_i = dL/dloss kept_i + scale g_i y_t(i),   dy_j the same with all x_i of t(i) = j.
struct KeptGradient {
  Features queries, candidates;  // x [n, d], y [m, d], of the type of the gradients, float or double
  int64_t dim = 0;
  Dtype dtype = Dtype::kFloat32;
  const int64_t* target = nullptr;  // [n]
  double loss_gradient = 1;         // dL/dloss
  double scale = 1;
  const double* positive = nullptr;  // g_i = positive[i positive_pitch]
  int64_t positive_pitch = 1;
  int threads = 1;
};
// Contiguous; `result` null: not asked for.
struct KeptRows {
  const void* kept = nullptr;
  void* result = nullptr;
};
void kept_gradient(const KeptGradient& p, const KeptRows& queries, const KeptRows& candidates);

}  // namespace mi
