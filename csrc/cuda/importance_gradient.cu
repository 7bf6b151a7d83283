// Gradients of two query sets' statistics for any upstream: one walk that the queries own and one that the candidates
// own, 8nmd flops each.
#include <limits>

#include "dispatch.cuh"
#include "importance.h"
#include "importance_gradient.cuh"
#include "importance_rows.cuh"
#include "instantiate.cuh"
#include "paired_queries.cuh"

namespace mi::cuda {
namespace {

// The walk that one side owns.
struct OwnedWalk {
  bool queries_own;
  Splits splits;
  Features owner;

  OwnedWalk(bool queries_own, const Sides& sides, const TileShape& shape)
      : queries_own(queries_own),
        splits(sides.splits(queries_own, shape)),
        owner(queries_own ? sides.p.queries : sides.p.candidates) {}

  int64_t product_rows() const { return splits.count * owner.rows; }
};

struct Plan {
  const DeviceImportanceProblem& p;
  PairedQueries paired;
  Sides sides;
  TileShape shape;
  OwnedWalk queries, candidates;
  ImportanceUnits* units;
  double* scale_part;
  void *terms, *products;  // of the walk under way

  Plan(const DeviceImportanceProblem& p, const ImportanceGradients& g, Arena& arena)
      : p(p),
        paired(p, arena),
        sides(paired.problem, arena),
        shape(with_traits(p.first.dtype, []<class Traits>(Traits) { return shape_of<typename Traits::Gradient>; })),
        queries(true, sides, shape),
        candidates(false, sides, shape),
        units(arena.take<ImportanceUnits>(1)),
        scale_part(arena.take<double>(p.first.n())) {
    const int64_t size = pairwise_kernels(p.first.dtype).scalar_bytes;
    terms = arena.take_bytes(4 * size * sides.p.n());
    products = arena.take_bytes(size * p.first.dim *
                                std::max(queries.product_rows(), g.candidates ? candidates.product_rows() : 0));
  }

  ImportanceGradientParams params(const OwnedWalk& walk, bool detached) const {
    ImportanceGradientParams params;
    params.walk = sides.walk(walk.queries_own, walk.splits);
    (walk.queries_own ? params.walk.owner : params.walk.streamed).terms = terms;
    params.products = products;
    params.dim = sides.p.dim;
    params.second_scale = p.second.scale;
    params.queries = p.first.n();
    params.weights_detached = detached;
    params.scaled = !walk.queries_own;
    return params;
  }

  void run(Queue& queue, const OwnedWalk& walk, ImportanceTerms t) const {
    t.unit = walk.queries_own ? &units->plain : &units->scaled;
    if (!walk.queries_own) t.scale[0] = p.first.scale, t.scale[1] = p.second.scale;
    with_traits(p.first.dtype, [&]<class Traits>(Traits) {
      using T = typename Traits::Gradient;
      using Scalar = typename T::Scalar;
      queue.each(sides.p.n(), importance_terms<Scalar>, t, sides.p.n(), std::numeric_limits<Scalar>::max(),
                 static_cast<Term<Scalar>*>(terms));
      if (walk.owner.rows == 0) return;
      const auto kernel = walk.queries_own ? importance_products<T, true> : importance_products<T, false>;
      const int groups = static_cast<int>(ceil_div(sides.p.dim, T::kValueChunks * T::kChunk));
      queue.run([&] {
        return launch<T>(kernel, params(walk, t.up.weights_detached), walk.splits.count, groups, queue.stream);
      });
    });
  }

  ProductSums sums(const OwnedWalk& walk) const {
    ProductSums sums;
    sums.products = products;
    sums.splits = walk.splits.count;
    sums.product_rows = walk.owner.rows;
    sums.dim = p.first.dim;
    sums.unit = walk.queries_own ? &units->plain : &units->scaled;
    sums.dtype = p.first.dtype;
    return sums;
  }
  void sum(Queue& queue, const ProductSums& sums) const {
    with_scalar(p.first.dtype,
                [&]<class Scalar>(Scalar) { queue.each(32 * sums.owner.rows, sum_products<Scalar>, sums); });
  }
  void finish_queries(Queue& queue, int set, const ImportanceGradients& g) const {
    const DeviceDotProblem& problem = set == 0 ? p.first : p.second;
    ProductSums sums = this->sums(queries);
    sums.set = set;
    sums.scale = problem.scale;
    sums.owner = problem.queries;
    sums.out = g.queries[set];
    sums.scale_part = scale_part;
    sum(queue, sums);
    queue.one_block(sum_values<double>, static_cast<const double*>(scale_part), p.first.n(), g.scale[set]);
  }
  void finish_candidates(Queue& queue, const ImportanceGradients& g) const {
    ProductSums sums = this->sums(candidates);
    sums.owner = candidates.owner;
    sums.out = g.candidates;
    sum(queue, sums);
  }
};

}  // namespace

size_t importance_gradient_workspace(const DeviceImportanceProblem& p, const ImportanceGradients& g) {
  Arena arena;
  Plan(p, g, arena);
  return arena.used;
}

cudaError_t importance_gradient(const DeviceImportanceProblem& p, const ImportanceStatistics& statistics,
                                const ImportanceUpstream& upstream, const ImportanceGradients& g, void* workspace,
                                cudaStream_t stream) {
  Arena arena{static_cast<char*>(workspace)};
  const Plan plan(p, g, arena);
  Queue queue{stream};
  plan.paired.fill(queue);
  plan.sides.fill(queue);
  ImportanceUpstream up = upstream;
  if (!p.first.exclusions.target) up.positive[0] = up.positive[1] = nullptr;
  queue.one_block(find_importance_units<ImportanceUnits>, up, p.first.n(), p.first.scale, p.second.scale,
                  pairwise_kernels(p.first.dtype).weight_shift, plan.units);
  const ImportanceTerms terms{up, statistics, p.first.n(), nullptr, {}};
  plan.run(queue, plan.queries, terms);
  for (int set = 0; set < 2; set++) plan.finish_queries(queue, set, g);
  if (!g.candidates) return queue.error;
  plan.run(queue, plan.candidates, terms);
  plan.finish_candidates(queue, g);
  return queue.error;
}

}  // namespace mi::cuda
