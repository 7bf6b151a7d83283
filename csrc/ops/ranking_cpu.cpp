// Ranks of the positives and entropies of the weights, on the CPU.
#include "../cpu/kernels.h"
#include "ranking_operators.h"

namespace mi {
namespace {

struct Cpu {
  static DotArguments arguments(const char* op, const Tensor& x, const Tensor& y, const Tensor& scale,
                                const OptionalTensor&, const OptionalTensor& target, const OptionalTensor& x_label,
                                const OptionalTensor& y_label, const OptionalTensor& candidate_log_weight, bool) {
    return dot_arguments(op, x, y, scale, target, x_label, y_label, candidate_log_weight);
  }

  static void ranking(const DotArguments& a, const Features& external_positive, const DotRanking& ranking) {
    DotProblem positives = a.problem;
    if (!a.target) positives.candidates = external_positive, positives.exclusions = {};
    cpu_kernels().ranking.rows(a.problem, positives, ranking);
  }
};

STABLE_TORCH_LIBRARY_IMPL(mi_ext, CPU, library) { library.impl("dot_ranking", TORCH_BOX(&dot_ranking<Cpu>)); }

}  // namespace
}  // namespace mi
