// Scratch memory of one call, aligned to cache lines.
#pragma once
#include <cstddef>
#include <cstdint>

namespace mi {

// Hands out arrays one behind the other. Without memory it only measures, so one layout function serves both.
class Arena {
 public:
  explicit Arena(char* data = nullptr) : data_(data) {}

  template <class T>
  T* take(int64_t count) {
    T* place = reinterpret_cast<T*>(data_ + used_);
    // One line more than needed, so that equal arrays do not start in the same cache set.
    used_ += (static_cast<size_t>(count) * sizeof(T) + kLine - 1) / kLine * kLine + kLine;
    return place;
  }
  size_t used() const { return used_; }

  static constexpr size_t kLine = 64;

 private:
  char* data_;
  size_t used_ = 0;
};

// The last block given back is kept for the next call: fresh pages cost as much as the arithmetic at large m.
class Workspace {
 public:
  // layout(arena) takes everything the call needs; it runs twice, to measure and to place.
  template <class Layout>
  explicit Workspace(Layout&& layout) {
    Arena measure;
    layout(measure);
    reserve(measure.used());
    Arena place(data_);
    layout(place);
  }
  ~Workspace();
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

 private:
  void reserve(size_t bytes);

  char* data_ = nullptr;
  size_t capacity_ = 0;
};

}  // namespace mi
