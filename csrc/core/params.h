// What a walk over scores needs to know: plain data, shared by every backend.
#pragma once
#include <cstdint>

namespace mi {

enum class Dtype { kFloat32, kFloat64, kBFloat16, kFloat16 };

// A row-major matrix of features. Rows may be apart; the elements of a row are not.
struct Features {
  const void* data = nullptr;
  int64_t rows = 0;
  int64_t pitch = 0;  // elements from one row to the next
};

// The pairs that are no negatives, and what is added to the scores of those that are.
struct Exclusions {
  const int64_t* target = nullptr;               // [n] column of the positive
  const int64_t* query_label = nullptr;          // [n] same label: not a negative
  const int64_t* candidate_label = nullptr;      // [m]
  const double* candidate_log_weight = nullptr;  // [m] v_j
};

// s_ij = scale <x_i, y_j> + bias, rows x, columns y.
struct DotProblem {
  Features queries;     // x [n, d]
  Features candidates;  // y [m, d]
  int64_t dim = 0;      // d
  Dtype dtype = Dtype::kFloat32;
  double scale = 1;
  double bias = 0;
  Exclusions exclusions;
  int threads = 1;

  int64_t n() const { return queries.rows; }
  int64_t m() const { return candidates.rows; }
};

// The same on a device. Scalars stay there: to read one back, the host would have to wait.
struct DeviceDotProblem {
  Features queries;     // x [n, d]
  Features candidates;  // y [m, d]
  int64_t dim = 0;      // d
  Dtype dtype = Dtype::kFloat32;
  const double* scale = nullptr;
  const double* bias = nullptr;  // null: 0
  Exclusions exclusions;
  bool tf32 = false;  // float32 products from the leading 11 bits of each factor, instead of three such products
  int multiprocessors = 1;

  int64_t n() const { return queries.rows; }
  int64_t m() const { return candidates.rows; }
};

// Gradients with respect to x, y and scale. Null: not asked for. Element type: double for double inputs, else float.
struct DotGradients {
  void* queries = nullptr;     // [n, d]
  void* candidates = nullptr;  // [m, d]
  double* scale = nullptr;
  double* bias = nullptr;
};

// Statistics of the scores, in nats.
struct DotStatistics {
  double* positive = nullptr;             // [n] z_i, written where there are targets
  double* negative_lse = nullptr;         // [n] a_i
  double* column_negative_lse = nullptr;  // [m] c_j, null: not asked for
  double clip = 0;                        // tau > 0: scores are clamped to [-tau, tau] before the log-sum-exp
};

// What the log-partition is taken over: sum_i of the rows' cross-entropy, or one log-partition of all rows.
enum class Partition { kRows, kGlobal };

struct PartitionWeights {
  Partition partition = Partition::kRows;
  double positive_log_weight = 0;  // a
  double negative_log_weight = 0;  // b
};

// Upstream gradients of the statistics. Null: zero.
struct UpstreamGradients {
  const double* negative_lse_value = nullptr;         // [n] a_i, from the forward
  const double* negative_lse = nullptr;               // [n] dL/da_i
  const double* column_negative_lse_value = nullptr;  // [m] c_j, from the forward
  const double* column_negative_lse = nullptr;        // [m] dL/dc_j
  const double* positive = nullptr;                   // [n] dL/dz_i
};

}  // namespace mi
