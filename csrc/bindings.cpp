// mi_ext._C: introspection only. The operators reach Python through torch.ops.mi_ext.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpu/kernels.h"

namespace {

std::vector<std::string> available_isas() {
  const char* names[16];
  const int count = mi::cpu_isa_names(names);
  return {names, names + count};
}

void set_isa(const std::string& name) {
  if (mi::set_cpu_isa(name.c_str())) return;
  std::string known;
  for (const std::string& isa : available_isas()) known += (known.empty() ? "" : ", ") + isa;
  throw std::invalid_argument("isa: '" + name + "' is not available here; this machine runs " + known);
}

std::map<std::string, std::string> build_info() {
  return {{"version", MI_EXT_VERSION},
          {"compiler", __VERSION__},
          {"build_type", MI_EXT_BUILD_TYPE},
          {"cuda", MI_EXT_CUDA},
          {"cuda_archs", MI_EXT_CUDA_ARCHS}};
}

}  // namespace

PYBIND11_MODULE(_C, module) {
  module.doc() = "What was built, and which instruction set the CPU kernels use.";
  module.def(
      "build_info", &build_info,
      "Version, compiler and build type; the CUDA version of its kernels for GPUs or why it has none, and which GPUs.");
  module.def("available_isas", &available_isas, "Instruction sets that this build and this machine have, worst first.");
  module.def("isa", [] { return std::string(mi::cpu_isa()); }, "The instruction set in use.");
  module.def(
      "peak_flops", [](int threads, int64_t steps) { return mi::cpu_kernels().peak_flops(threads, steps); },
      pybind11::arg("threads"), pybind11::arg("steps") = 4000000,
      "float32 flop/s of multiply-adds between registers on `threads` threads: the ceiling for every kernel.");
  module.def(
      "split_always", &mi::set_split_always, pybind11::arg("always"),
      "Where an instruction set makes float32 products of bfloat16 parts, for large problems: for all; for tests.");
  module.def("set_isa", &set_isa, pybind11::arg("name"), "Use another instruction set; for tests and benchmarks.");
}
