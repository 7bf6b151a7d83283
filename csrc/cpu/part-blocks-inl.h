// What the candidates are split into, kCandidateBlock of them after another. The next block of queries needs the same:
// it is kept where it takes little memory; otherwise there are the block in hand and the next.
#pragma once
#include "parts-inl.h"

namespace mi {
namespace MI_ISA {

class SplitBlocks {
 public:
  // words: of a block. candidates: of the slot.
  void place(const DotProblem& p, int64_t candidates, int64_t words, Arena& arena) {
    words_ = words;
    const int64_t all = round_up(candidates, kCandidateBlock) / kCandidateBlock * words;
    kept_ = p.n() >= kBlocksThatKeep * kQueryBlock && all <= kMostWords / p.threads;
    data_ = arena.take<uint32_t>(kept_ ? all : 2 * words);
  }

  // Of the block that begins with candidate j; `turn` counts the blocks of a walk.
  uint32_t* at(int64_t j, int64_t turn) const {
    return data_ + (kept_ ? (j - first_) / kCandidateBlock : turn % 2) * words_;
  }
  bool are_split(int64_t j) const { return kept_ && j < split_; }

  // Before and after a walk over candidates first .. last. A slot's walks follow one another, and begin again with the
  // first candidate.
  void begin(int64_t first) const {
    if (split_ == 0) first_ = split_ = first;
  }
  void end(int64_t last) const { split_ = last > split_ ? last : split_; }

 private:
  static constexpr int64_t kMostWords = int64_t{1} << 20, kBlocksThatKeep = 4;  // of all slots

  uint32_t* data_ = nullptr;
  int64_t words_ = 0;
  bool kept_ = false;
  mutable int64_t first_ = 0, split_ = 0;  // candidates
};

}  // namespace MI_ISA
}  // namespace mi
