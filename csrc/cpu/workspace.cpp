#include "workspace.h"

#include <cstdlib>
#include <mutex>
#include <new>
#include <utility>

namespace mi {
namespace {

// Larger blocks go back to the system: fetching their pages again costs little beside the work that needs so much
// scratch, and a backward pass may want the memory.
constexpr size_t kLargestKept = size_t{12} << 20;

struct Kept {
  std::mutex mutex;
  char* data = nullptr;
  size_t capacity = 0;
};

Kept& kept() {
  static Kept* block = new Kept;  // never destroyed: calls may outlive static destruction
  return *block;
}

}  // namespace

void Workspace::reserve(size_t bytes) {
  {
    std::lock_guard<std::mutex> lock(kept().mutex);
    if (kept().capacity >= bytes) {
      data_ = std::exchange(kept().data, nullptr);
      capacity_ = std::exchange(kept().capacity, 0);
    }
  }
  if (data_ != nullptr) return;
  capacity_ = (bytes + Arena::kLine - 1) / Arena::kLine * Arena::kLine + Arena::kLine;
  data_ = static_cast<char*>(std::aligned_alloc(Arena::kLine, capacity_));
  if (data_ == nullptr) throw std::bad_alloc();
}

Workspace::~Workspace() {
  char* unneeded = data_;
  if (capacity_ <= kLargestKept) {
    std::lock_guard<std::mutex> lock(kept().mutex);
    if (capacity_ > kept().capacity) {
      unneeded = std::exchange(kept().data, data_);
      kept().capacity = capacity_;
    }
  }
  std::free(unneeded);
}

}  // namespace mi
