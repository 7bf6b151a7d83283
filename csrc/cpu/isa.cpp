// Chooses, once, the best instruction set that both this build and this machine have.
#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <atomic>
#include <cstring>

#include "kernels.h"

namespace mi {

#if defined(__x86_64__)
namespace x86_64_v2 {
const CpuKernels& kernels();
}
namespace x86_64_v3 {
const CpuKernels& kernels();
}
namespace x86_64_v4 {
const CpuKernels& kernels();
}
namespace x86_64_v4_bf16 {
const CpuKernels& kernels();
}
namespace x86_64_v4_amx {
const CpuKernels& kernels();
}
#else
namespace neon {
const CpuKernels& kernels();
}
#endif

namespace {

struct Candidate {
  const CpuKernels& (*kernels)();
  bool (*available)();
};

#if defined(__x86_64__)
bool has_v4() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

// CPUID leaf 7: AVX512_BF16 is bit 5 of eax in subleaf 1; AMX-BF16 and AMX-TILE are bits 22 and 24 of edx in subleaf 0.
bool has_bf16() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return has_v4() && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && (eax >> 5 & 1);
}

// The system hands out the tile registers on request only.
bool has_amx() {
#if defined(__linux__)
  constexpr int kRequestPermission = 0x1023, kTileData = 18;
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return has_bf16() && __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) && (edx >> 22 & 1) && (edx >> 24 & 1) &&
         syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}
#endif

// Worst first.
constexpr Candidate kCandidates[] = {
#if defined(__x86_64__)
    {x86_64_v2::kernels, [] { return true; }},
    {x86_64_v3::kernels, [] { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }},
    {x86_64_v4::kernels, has_v4},
    {x86_64_v4_bf16::kernels, has_bf16},
    {x86_64_v4_amx::kernels, has_amx},
#else
    {neon::kernels, [] { return true; }},
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

static std::atomic<bool> split_always_{false};
bool split_always() { return split_always_; }
void set_split_always(bool always) { split_always_ = always; }

int cpu_isa_names(const char** names) {
  int count = 0;
  for (const Candidate& candidate : kCandidates)
    if (candidate.available()) names[count++] = candidate.kernels().isa;
  return count;
}

}  // namespace mi
