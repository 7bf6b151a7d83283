// The gathered operators on a GPU. Nothing waits for it: an index outside the bank makes its row NaN.
#include "../cuda/gathered.h"

#include <algorithm>
#include <array>
#include <utility>

#include "gathered_operators.h"
#include "gpu.h"

namespace mi {
namespace {

// (values, where they stood); equal ones in the order in which they stood.
std::pair<Tensor, Tensor> sorted(const Tensor& keys) {
  using torch::stable::detail::from, torch::stable::detail::to;
  const bool stable = true, descending = false;
  const int64_t dim = 0;
  std::array<StableIValue, 4> stack{from(keys), from(std::optional<bool>(stable)), from(dim), from(descending)};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::sort", "stable", stack.data(), TORCH_ABI_VERSION));
  return {to<Tensor>(stack[0]), to<Tensor>(stack[1])};
}

struct Cuda {
  struct Arguments : GatheredArgumentsOf<DeviceGatheredProblem> {
    const char* op;
    Tensor scale;
    OptionalTensor bias;
    torch::stable::accelerator::DeviceGuard guard;
  };

  static Arguments arguments(const char* op, const Tensor& x, const Tensor& y, const OptionalTensor& index,
                             const Tensor& scale, const OptionalTensor& bias) {
    check(x.is_cuda(), op, "expected all tensors on one GPU, but x is on ", device_of(x));
    const double* scale_pointer = scalar_on_device(op, "scale", scale, x);
    const double* bias_pointer = bias ? scalar_on_device(op, "bias", *bias, x) : nullptr;
    torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
    Arguments a{described_gathered<DeviceGatheredProblem>(op, x, y, index), op, scale, bias, std::move(guard)};
    constexpr int64_t kMostFeatures = 1 << 20;
    check(a.problem.dim <= kMostFeatures, op, "x and y may have up to ", kMostFeatures,
          " features on a GPU, but d = ", a.problem.dim);
    a.problem.scale = scale_pointer, a.problem.bias = bias_pointer;
    a.problem.multiprocessors = device_attribute(op, cudaDevAttrMultiProcessorCount, x.get_device_index());
    return a;
  }

  static void log_sum_exp(const Arguments& a, double clip, double* negative_lse) {
    walk(a, false, [&](void* workspace, cudaStream_t stream) {
      return cuda::gathered_lse(a.problem, clip, negative_lse, workspace, stream);
    });
  }

  static void fused(const Arguments& a, const PartitionWeights& weights, const double* positive, double* negative_lse,
                    const DotGradients& gradients, double* positive_gradient, double* loss) {
    const Tensor scores = new_scores(a, gradients), row_weight = new_doubles(a.x, {a.problem.n()});
    walk(a, true, [&](void* workspace, cudaStream_t stream) {
      return cuda::gathered_fused(a.problem, weights,
                                  {positive, negative_lse, positive_gradient, doubles(row_weight), loss}, gradients,
                                  scores.mutable_data_ptr(), workspace, stream);
    });
    candidate_gradient(a, {scores.const_data_ptr(), negative_lse, doubles(row_weight)}, gradients.candidates);
  }

  static void gradient(const Arguments& a, const UpstreamGradients& upstream, const DotGradients& gradients) {
    const Tensor scores = new_scores(a, gradients);
    walk(a, true, [&](void* workspace, cudaStream_t stream) {
      return cuda::gathered_gradient(a.problem, upstream, gradients, scores.mutable_data_ptr(), workspace, stream);
    });
    candidate_gradient(a, {scores.const_data_ptr(), upstream.negative_lse_value, upstream.negative_lse},
                       gradients.candidates);
  }

  static void softplus_sum(const Arguments& a, double* value, const DotGradients& gradients) {
    const Tensor scores = new_scores(a, gradients);
    walk(a, gradients.queries != nullptr, [&](void* workspace, cudaStream_t stream) {
      return cuda::gathered_softplus_sum(a.problem, value, gradients, scores.mutable_data_ptr(), workspace, stream);
    });
    candidate_gradient(a, {scores.const_data_ptr()}, gradients.candidates);
  }

  static void ranking(const Arguments& a, const Features& positives, const DotRanking& ranking) {
    enqueue(a.op, a.x, cuda::gathered_ranking_workspace(a.problem), [&](void* workspace, cudaStream_t stream) {
      return cuda::gathered_ranking(a.problem, positives, ranking, workspace, stream);
    });
  }

 private:
  template <class Walk>
  static void walk(const Arguments& a, bool query_gradient, const Walk& walk) {
    enqueue(a.op, a.x, cuda::gathered_workspace(a.problem, query_gradient), walk);
  }

  // [n, m]; empty, so without an address, where the negatives ask for no gradient.
  static Tensor new_scores(const Arguments& a, const DotGradients& gradients) {
    const auto type = a.problem.dtype == Dtype::kFloat64 ? ScalarType::Double : ScalarType::Float;
    return new_tensor(a.x, {gradients.candidates ? a.problem.n() : 0, a.problem.m()}, type);
  }

  static void candidate_gradient(const Arguments& a, const cuda::PairWeights& weights, void* out) {
    if (!out) return;
    if (a.index) return bank_gradient(a, weights, out);
    enqueue(a.op, a.x, cuda::negatives_gradient_workspace(a.problem), [&](void* workspace, cudaStream_t stream) {
      return cuda::negatives_gradient(a.problem, weights, out, workspace, stream);
    });
  }

  // Queries in blocks, so that what sorting takes stays small beside a large index.
  static void bank_gradient(const Arguments& a, const cuda::PairWeights& weights, void* out) {
    const DeviceGatheredProblem& p = a.problem;
    constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
    check(p.m() < kMost && p.candidates.rows < kMost, a.op, "a bank of ", p.candidates.rows, " rows with ", p.m(),
          " negatives for each query is too large for a gradient: expected fewer than 2^31 of both");
    const int64_t block = std::max<int64_t>(1, cuda::kPairsSorted / std::max<int64_t>(1, p.m()));
    for (int64_t first = 0; first < std::max<int64_t>(1, p.n()); first += block) {
      cuda::SortedPairs of_block{first, std::min(block, p.n() - first)};
      const Tensor keys = new_tensor(a.x, {of_block.queries * p.m()}, ScalarType::Int);
      enqueue(a.op, a.x, 0, [&](void*, cudaStream_t stream) {
        return cuda::bank_keys(p, of_block, static_cast<int32_t*>(keys.mutable_data_ptr()), stream);
      });
      const auto [row, pair] = sorted(keys);
      of_block.row = static_cast<const int32_t*>(row.const_data_ptr());
      of_block.pair = static_cast<const int64_t*>(pair.const_data_ptr());
      enqueue(a.op, a.x, cuda::bank_gradient_workspace(p, of_block), [&](void* workspace, cudaStream_t stream) {
        return cuda::bank_gradient(p, weights, of_block, out, workspace, stream);
      });
    }
  }
};

STABLE_TORCH_LIBRARY_IMPL(mi_ext, CUDA, library) { GatheredOperators<Cuda>::implement(library); }

}  // namespace
}  // namespace mi
