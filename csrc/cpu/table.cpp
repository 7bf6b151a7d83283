// The table of an instruction set.
#include <omp.h>

#include "families-inl.h"
#include "parallel.h"
#include "tile-inl.h"

namespace mi {
namespace MI_ISA {

// The ceiling that benchmarks measure against: multiply-adds that never leave the registers.
static double peak_flops(int threads, int64_t steps) {
  constexpr int kChains = kRowsHigh * kVectorsWide;
  auto run = [&] {
    for_slots(threads, [&](int) {
      Vec<float> chain[kChains];
      for (int c = 0; c < kChains; c++) chain[c] = broadcast(static_cast<float>(c));
      const Vec<float> factor = broadcast(0.999f), addend = broadcast(1e-3f);
      for (int64_t step = 0; step < steps; step++) {
#pragma GCC unroll 24
        for (int c = 0; c < kChains; c++) chain[c] = chain[c] * factor + addend;
      }
      volatile float sink = 0;
      for (int c = 0; c < kChains; c++) sink = sink + chain[c][0];
    });
  };
  run();
  const double start = omp_get_wtime();
  run();
  return 2.0 * kChains * kLanes<float> * steps * threads / (omp_get_wtime() - start);
}

const CpuKernels& kernels() {
  static const CpuKernels table{MI_ISA_NAME,          dot_kernels(),     gathered_kernels(), joint_kernels(),
                                importance_kernels(), ranking_kernels(), peak_flops};
  return table;
}

}  // namespace MI_ISA
}  // namespace mi
