// The kernels of one instruction set, by family. Each family is a file, compiled once for every instruction set with
// MI_ISA, a namespace, defined.
#pragma once
#include "kernels.h"

namespace mi {
namespace MI_ISA {

DotKernels dot_kernels();
GatheredKernels gathered_kernels();
JointKernels joint_kernels();
ImportanceKernels importance_kernels();
RankingKernels ranking_kernels();

}  // namespace MI_ISA
}  // namespace mi
