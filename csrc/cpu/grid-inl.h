// Who walks what: slots in groups. A group owns a range of queries and walks it block by block; each of its slots has a
// part of the candidates. What is kept for every candidate is kept once a group, and groups are several only where the
// candidates are few: scratch does not grow with threads times candidates.
#pragma once
#include <algorithm>

#include "features-inl.h"
#include "parallel.h"

namespace mi {
namespace MI_ISA {

template <class T>
struct BlockGrid {
  static constexpr int64_t kCandidatesEach = 1024;  // of a slot at least, where a group has several

  int64_t n, m;
  int64_t unit;  // parts of the candidates begin at multiples of it
  int parts = 1, groups = 1;

  BlockGrid(const DotProblem& p, int64_t candidate_unit) : n(p.n()), m(p.m()), unit(candidate_unit) {
    const int most_parts = slots_for(p.threads, m / kCandidatesEach);
    const auto groups_of = [&](int each) { return slots_for(p.threads / each, round_up(n, kLanes<T>) / kLanes<T>); };
    int most = 1;
    for (int each = 1; each <= most_parts; each++) most = std::max(most, each * groups_of(each));
    // The largest groups that leave no more than an eighth of the threads without work.
    for (int each = 1; each <= most_parts; each++)
      if (8 * each * groups_of(each) >= 7 * most) parts = each, groups = groups_of(each);
  }

  int slots() const { return parts * groups; }
  int group(int s) const { return s / parts; }
  int first_of_group(int s) const { return s - s % parts; }

  Range candidates(int s) const { return part_of(m, s % parts, parts, unit); }
  Range queries(int s, int64_t block) const {
    const Range all = part_of(n, group(s), groups, kLanes<T>);
    const int64_t first = smaller(all.first + block * kQueryBlock, all.last);
    return {first, smaller(first + kQueryBlock, all.last)};
  }
  // The queries of a block that a slot finishes for its group.
  Range own_queries(int s, int64_t block) const {
    const Range all = queries(s, block), own = part_of(all.size(), s % parts, parts, 1);
    return {all.first + own.first, all.first + own.last};
  }

  // Calls phase(s, block) for every slot, block by block. All meet after each phase, or, where each is alone in its
  // group, none waits for another.
  template <class... Phases>
  void for_blocks(Phases&&... phases) const {
    const int64_t vectors = round_up(n, kLanes<T>) / kLanes<T>, longest = round_up(vectors, groups) / groups;
    const int64_t blocks = round_up(longest * kLanes<T>, kQueryBlock) / kQueryBlock;
    if (parts == 1)
      return for_slots(groups, [&](int s) {
        for (int64_t block = 0; block < blocks; block++) (phases(s, block), ...);
      });
    with_usable_threads([&] {
      for (int64_t block = 0; block < blocks; block++) (for_slots(slots(), [&](int s) { phases(s, block); }), ...);
    });
  }
};

}  // namespace MI_ISA
}  // namespace mi
