// The table of an instruction set with products of bfloat16 pairs: that of x86-64-v4, but for the fused walk of
// bfloat16 inputs.
#include "fused-inl.h"
#include "kernels.h"
#include "paired-products-inl.h"

namespace mi {

namespace x86_64_v4 {
const CpuKernels& kernels();
}

namespace MI_ISA {

static void fused(const DotProblem& p, const PartitionWeights& weights, const double* external_positive,
                  const DotStatistics& statistics, const DotGradients& g, double* positive_gradient) {
  const bool paired = p.dtype == Dtype::kBFloat16 && g.candidates && PairedProducts::bytes_kept(p.m()) <= kLargestBlock;
  const auto run = paired ? dot_fused<PairedProducts> : x86_64_v4::kernels().dot.fused;
  run(p, weights, external_positive, statistics, g, positive_gradient);
}

const CpuKernels& kernels() {
  static const CpuKernels table = [] {
    CpuKernels kernels = x86_64_v4::kernels();
    kernels.isa = MI_ISA_NAME;
    kernels.dot.fused = fused;
    return kernels;
  }();
  return table;
}

}  // namespace MI_ISA
}  // namespace mi
