// Chooses, once, the best instruction set that both this build and this machine have.
#include <atomic>
#include <cstring>

#include "kernels.h"

namespace mi {

#if defined(__x86_64__)
const CpuKernels& kernels_x86_64_v2();
const CpuKernels& kernels_x86_64_v3();
const CpuKernels& kernels_x86_64_v4();
#else
const CpuKernels& kernels_neon();
#endif

namespace {

struct Candidate {
  const CpuKernels& (*kernels)();
  bool (*available)();
};

// Worst first.
constexpr Candidate kCandidates[] = {
#if defined(__x86_64__)
    {kernels_x86_64_v2, [] { return true; }},
    {kernels_x86_64_v3, [] { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }},
    {kernels_x86_64_v4,
     [] {
       return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
              __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
              __builtin_cpu_supports("avx512vl");
     }},
#else
    {kernels_neon, [] { return true; }},
#endif
};

const CpuKernels* best() {
  const CpuKernels* found = nullptr;
  for (const Candidate& candidate : kCandidates)
    if (candidate.available()) found = &candidate.kernels();
  return found;
}

std::atomic<const CpuKernels*>& in_use() {
  static std::atomic<const CpuKernels*> kernels{best()};
  return kernels;
}

}  // namespace

const CpuKernels& cpu_kernels() { return *in_use().load(); }
const char* cpu_isa() { return cpu_kernels().isa; }

bool set_cpu_isa(const char* name) {
  for (const Candidate& candidate : kCandidates)
    if (candidate.available() && std::strcmp(candidate.kernels().isa, name) == 0) {
      in_use() = &candidate.kernels();
      return true;
    }
  return false;
}

int cpu_isa_names(const char** names) {
  int count = 0;
  for (const Candidate& candidate : kCandidates)
    if (candidate.available()) names[count++] = candidate.kernels().isa;
  return count;
}

}  // namespace mi
