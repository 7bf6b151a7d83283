#include "parallel.h"

#include <pthread.h>

#include <system_error>

namespace mi {
namespace {

bool forked = false;
thread_local bool is_new = false;

struct Call {
  void* (*body)(void*);
  void* argument;
};

const int registered = pthread_atfork(nullptr, nullptr, [] { forked = true; });

}  // namespace

bool threads_are_lost() { return forked && !is_new; }

void run_in_new_thread(void* (*body)(void*), void* argument) {
  Call call{body, argument};
  const auto run = [](void* of) -> void* {
    is_new = true;
    return static_cast<Call*>(of)->body(static_cast<Call*>(of)->argument);
  };
  pthread_t thread;
  const int error = pthread_create(&thread, nullptr, run, &call);
  if (error != 0) throw std::system_error(error, std::generic_category(), "mi_ext: no thread for a forked child");
  pthread_join(thread, nullptr);
}

}  // namespace mi
