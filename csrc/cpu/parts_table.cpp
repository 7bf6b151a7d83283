// The table of AMX: the walks over dot scores and importance where float32 numbers can be split into three bfloat16;
// for all else that with products of bfloat16 pairs.
#include <algorithm>
#include <vector>

#include "dot-walks-inl.h"
#include "importance-walks-inl.h"
#include "kernels.h"
#include "part-products-inl.h"

namespace mi {

namespace x86_64_v4_amx_pairs {
const CpuKernels& kernels();
}

namespace MI_ISA {

static const CpuKernels& plain() { return x86_64_v4_amx_pairs::kernels(); }

// The largest |x|; infinite if some x is, or is NaN.
static float largest_of(const Features& features, Dtype dtype, int64_t dim, int threads) {
  constexpr int kMagnitude = 0x7fffffff, kInfiniteBits = 0x7f800000;
  std::vector<int> largest(slots_for(threads, features.rows / kCandidateBlock));
  const int slots = static_cast<int>(largest.size());
  for_slots(slots, [&](int s) {
    const Range rows = part_of(features.rows, s, slots, 1);
    float row[kChunk];
    int bits[kChunk], most = 0;
    for (int64_t i = rows.first; i < rows.last; i++)
      for (int64_t k = 0; k < dim; k += kChunk) {
        const int64_t count = smaller(kChunk, dim - k);
        convert(row, features, dtype, i, k, count);
        std::memcpy(bits, row, sizeof(row));
        for (int64_t c = 0; c < count; c++) most = std::max(most, bits[c] & kMagnitude);
      }
    largest[s] = std::min(most, kInfiniteBits);
  });
  float value;
  std::memcpy(&value, &*std::max_element(largest.begin(), largest.end()), sizeof(value));
  return value;
}

// What splitting costs a pair is worth the products of so many columns of d; a call has a cost of its own; and the
// candidates are split for every block of queries, which must be worth it.
constexpr int64_t kWorthColumns = 16, kLeastGain = int64_t{3} << 23, kLeastQueries = 64;

static bool pays(const DotProblem& p, int64_t queries_of_a_slot) {
  return queries_of_a_slot >= kLeastQueries && p.n() * p.m() * (p.dim - kWorthColumns) >= kLeastGain;
}

// Whether parts do as well as float32: they are 0 below 2^-126, and NaN and infinity have none.
static bool splits(const DotProblem& p, int64_t queries_of_a_slot) {
  if (p.dtype == Dtype::kFloat64 || !(split_always() || pays(p, queries_of_a_slot))) return false;
  const auto fits = [](double largest) { return largest > 0x1p-24 && largest < 0x1p40; };
  const float queries = largest_of(p.queries, p.dtype, p.dim, p.threads);
  return fits(queries) && fits(queries * std::abs(p.scale)) &&
         fits(largest_of(p.candidates, p.dtype, p.dim, p.threads));
}

// Of a walk over blocks of queries, and of one for statistics.
static bool splits_blocks(const DotProblem& p) { return splits(p, p.n() / BlockGrid<float>{p, kRowsHigh}.groups); }
static bool splits_statistics(const DotProblem& p) {
  const int slots = statistics_slots<float>(p);
  return splits(p, statistics_parts(p, slots) == 1 ? p.n() / slots : p.n());
}

static void dot_fused_of(const DotProblem& p, const PartitionWeights& weights, const double* external_positive,
                         const DotStatistics& statistics, const DotGradients& g, double* positive_gradient) {
  const bool pairs = p.dtype == Dtype::kBFloat16 && g.candidates;
  const bool split = !pairs && (g.candidates ? splits_blocks(p) : splits_statistics(p));
  const auto run = split ? fused<float> : plain().dot.fused;
  run(p, weights, external_positive, statistics, g, positive_gradient);
}

static DotKernels dot_kernels() {
  return {
      [](const DotProblem& p, const DotStatistics& statistics) {
        (splits_statistics(p) ? dot_statistics<float> : plain().dot.statistics)(p, statistics);
      },
      dot_fused_of,
      [](const DotProblem& p, const UpstreamGradients& up, const double* positive, const DotGradients& g) {
        const auto ours = up.column_negative_lse ? row_column_gradient<float> : row_gradient<float>;
        (splits_blocks(p) ? ours : plain().dot.gradient)(p, up, positive, g);
      },
      [](const DotProblem& p, double* positive, double* value, const DotGradients& g) {
        (splits_blocks(p) ? softplus_sum<float> : plain().dot.softplus_sum)(p, positive, value, g);
      },
  };
}

static bool splits(const ImportanceProblem& p) { return splits_blocks(p.first) && splits_blocks(p.second); }

static ImportanceKernels importance_kernels() {
  return {
      [](const ImportanceProblem& p, const ImportanceStatistics& statistics) {
        (splits(p) ? importance_statistics<float> : plain().importance.statistics)(p, statistics);
      },
      [](const ImportanceProblem& p, const ImportanceObjective& objective, const ImportanceStatistics& statistics,
         const ImportanceGradients& g, double* const* positive_gradient) {
        (splits(p) ? importance_fused<float> : plain().importance.fused)(p, objective, statistics, g,
                                                                         positive_gradient);
      },
      [](const ImportanceProblem& p, const ImportanceStatistics& statistics, const ImportanceUpstream& up,
         const ImportanceGradients& g) {
        (splits(p) ? importance_gradient<float> : plain().importance.gradient)(p, statistics, up, g);
      },
  };
}

const CpuKernels& kernels() {
  static const CpuKernels table = [] {
    CpuKernels kernels = plain();
    kernels.isa = MI_ISA_NAME;
    kernels.dot = dot_kernels();
    kernels.importance = importance_kernels();
    return kernels;
  }();
  return table;
}

}  // namespace MI_ISA
}  // namespace mi
