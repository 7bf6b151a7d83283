// Places arrays in a workspace, or, without one, finds how large it must be.
#pragma once
#include <cstddef>
#include <cstdint>

namespace mi::cuda {

struct Arena {
  char* base = nullptr;
  size_t used = 0;

  template <class T>
  T* take(int64_t count) {
    return static_cast<T*>(take_bytes(count * static_cast<int64_t>(sizeof(T))));
  }
  void* take_bytes(int64_t bytes) {
    void* place = base ? base + used : nullptr;
    used += (static_cast<size_t>(bytes) + 255) / 256 * 256;
    return place;
  }
};

}  // namespace mi::cuda
