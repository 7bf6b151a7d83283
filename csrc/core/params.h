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

// s_ik = scale <x_i, y_ik> + bias, k < m: every query has negatives of its own.
struct GatheredProblem {
  Features queries;                // x [n, d]
  Features candidates;             // y: a bank [V, d], or, without index, the negatives themselves [n, m, d]
  const int64_t* index = nullptr;  // [n, m] y_ik = row index_ik of the bank
  int64_t query_pitch = 0;         // without index: elements from the negatives of one query to those of the next
  int64_t negatives = 0;           // m
  int64_t dim = 0;                 // d
  Dtype dtype = Dtype::kFloat32;
  double scale = 1;
  double bias = 0;
  int threads = 1;

  int64_t n() const { return queries.rows; }
  int64_t m() const { return negatives; }
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
  int capability = 0;  // 10 major + minor

  int64_t n() const { return queries.rows; }
  int64_t m() const { return candidates.rows; }
};

// Gathered scores on a device. An index outside the bank makes its score NaN.
struct DeviceGatheredProblem {
  Features queries;                // x [n, d]
  Features candidates;             // y: a bank [V, d], or, without index, the negatives themselves [n, m, d]
  const int64_t* index = nullptr;  // [n, m] y_ik = row index_ik of the bank
  int64_t query_pitch = 0;         // without index: elements from the negatives of one query to those of the next
  int64_t negatives = 0;           // m
  int64_t dim = 0;                 // d
  Dtype dtype = Dtype::kFloat32;
  const double* scale = nullptr;
  const double* bias = nullptr;  // null: 0
  int multiprocessors = 1;

  int64_t n() const { return queries.rows; }
  int64_t m() const { return negatives; }
};

// Gradients with respect to x, y and scale. Null: not asked for. Element type: double for double inputs, else float.
struct DotGradients {
  void* queries = nullptr;     // [n, d]
  void* candidates = nullptr;  // [m, d]; of gathered scores: y's shape
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

// The critic on concatenated pairs, rows x, columns y; a + b is the first layer's product with [x_i; y_j]:
//   s_ij = <w, relu(a_i + b_j)> + bias,   or, with a second hidden layer,   <w, relu(W1 relu(a_i + b_j) + b1)> + bias.
struct JointProblem {
  Features queries;       // a [n, h]
  Features candidates;    // b [m, h]
  Features inner_weight;  // W1 [h1, h]; no rows: one hidden layer
  Features inner_bias;    // b1 [1, h1]
  Features last_weight;   // w [1, h1], or [1, h]
  int64_t hidden = 0;     // h
  Dtype dtype = Dtype::kFloat32;
  double bias = 0;
  Exclusions exclusions;
  int threads = 1;

  int64_t n() const { return queries.rows; }
  int64_t m() const { return candidates.rows; }
  int64_t inner() const { return inner_weight.rows; }  // h1
};

// The same on a device. The bias stays there, as the scalars of DeviceDotProblem.
struct DeviceJointProblem {
  Features queries;       // a [n, h]
  Features candidates;    // b [m, h]
  Features inner_weight;  // W1 [h1, h]; no rows: one hidden layer
  Features inner_bias;    // b1 [1, h1]
  Features last_weight;   // w [1, h1], or [1, h]
  int64_t hidden = 0;     // h
  Dtype dtype = Dtype::kFloat32;
  const double* bias = nullptr;  // null: 0
  Exclusions exclusions;
  int multiprocessors = 1;

  int64_t n() const { return queries.rows; }
  int64_t m() const { return candidates.rows; }
  int64_t inner() const { return inner_weight.rows; }  // h1
};

// Contiguous gradients with respect to a, b, W1, b1 and w. Element type: double for double inputs, else float.
struct JointGradients {
  void* queries = nullptr;
  void* candidates = nullptr;
  void* inner_weight = nullptr;
  void* inner_bias = nullptr;
  void* last_weight = nullptr;
};

using JointStatistics = DotStatistics;  // the same of any scores

// What is read beside a loss, by row, of any scores; in nats.
struct DotRanking {
  double* positive = nullptr;  // z_i, written where there are targets
  double* negative_lse = nullptr;
  double* entropy = nullptr;  // of softmax(s + v) over the negatives, -inf where there are none
  int64_t* rank = nullptr;    // negatives with s_ij >= z_i, but for those at -inf
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

// Two query sets on the same candidates with the same positives: s' of `first`, s'' of `second`, which differ in
// queries and scale alone.
struct ImportanceProblem {
  DotProblem first;
  DotProblem second;
};

struct DeviceImportanceProblem {
  DeviceDotProblem first;
  DeviceDotProblem second;
};

// Over the negatives of a row: log-sum-exps of s' + v, of s'' + v and of s' + s'' + v; and both positives. In nats.
struct ImportanceStatistics {
  double* positive[2] = {};      // [n] p', p'', written where there are targets
  double* negative_lse[3] = {};  // [n] a', a'', a*
};

// Gradients with respect to x', x'', y and both scales; the element types are those of DotGradients.
struct ImportanceGradients {
  void* queries[2] = {};       // [n, d]
  void* candidates = nullptr;  // [m, d], null: not asked for
  double* scale[2] = {};
};

// Upstream gradients of the statistics [n]. Null: zero.
struct ImportanceUpstream {
  const double* positive[2] = {};
  const double* negative_lse[3] = {};
  bool weights_detached = false;  // a* is a function of s' alone
};

}  // namespace mi
