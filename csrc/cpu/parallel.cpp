#include "parallel.h"

#include <pthread.h>

#include <system_error>

namespace mi {
namespace {

bool forked = false;

const int registered = pthread_atfork(nullptr, nullptr, [] { forked = true; });

}  // namespace

bool in_forked_child() { return forked; }

void run_in_new_thread(void* (*body)(void*), void* argument) {
  pthread_t thread;
  const int error = pthread_create(&thread, nullptr, body, argument);
  if (error != 0) throw std::system_error(error, std::generic_category(), "mi_ext: no thread for a forked child");
  pthread_join(thread, nullptr);
}

}  // namespace mi
