// Work is cut into slots, one a thread. Which rows a slot owns depends on the number of slots alone, and partial
// results are added in slot order, so a result depends on the thread count but not on which thread came first.
#pragma once
#include <omp.h>

#include <cstdint>
#include <type_traits>

namespace mi {

// The threads that OpenMP keeps waiting for work do not live on in a forked child, and whoever calls upon them waits
// for ever. A thread that is new has none yet and starts its own.
bool threads_are_lost();
void run_in_new_thread(void* (*body)(void*), void* argument);

template <class Body>
static inline void with_usable_threads(Body&& body) {
  if (!threads_are_lost()) return body();
  const auto call = [](void* argument) -> void* {
    (*static_cast<std::remove_reference_t<Body>*>(argument))();
    return nullptr;
  };
  run_in_new_thread(call, &body);
}

template <class Body>
static inline void for_slots(int slots, Body&& body) {
  if (slots == 1) return body(0);
  with_usable_threads([&] {
#pragma omp parallel num_threads(slots)
    for (int slot = omp_get_thread_num(); slot < slots; slot += omp_get_num_threads()) body(slot);
  });
}

// At least one, so that an empty problem still gets its empty results.
static inline int slots_for(int threads, int64_t units) {
  return units < threads ? (units < 1 ? 1 : static_cast<int>(units)) : threads;
}

struct Range {
  int64_t first, last;
  int64_t size() const { return last - first; }
};

// Part `slot` of `count` items, cut at multiples of `unit`.
static inline Range part_of(int64_t count, int slot, int slots, int64_t unit) {
  const int64_t units = (count + unit - 1) / unit;
  const int64_t first = units * slot / slots * unit, last = units * (slot + 1) / slots * unit;
  return {first < count ? first : count, last < count ? last : count};
}

}  // namespace mi
