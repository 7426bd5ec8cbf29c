// The four functions of OpenMP that a parallel region compiled by GCC needs, on std::thread.
//
// ThreadSanitizer understands std::thread, while GCC's OpenMP runtime, which is not instrumented, looks to it like
// threads that share memory without synchronisation. Linked in place of that runtime, this leaves only the team itself
// for ThreadSanitizer to check.
#include <thread>
#include <vector>

namespace {

thread_local int worker = 0;
thread_local int workers = 1;

}  // namespace

extern "C" {

// The names are GCC's and OpenMP's.
void GOMP_parallel(void (*body)(void*), void* data, unsigned threads, unsigned /* flags */) {
  const auto run = [=](unsigned index) {
    worker = static_cast<int>(index);
    workers = static_cast<int>(threads);
    body(data);
    worker = 0;
    workers = 1;
  };
  std::vector<std::thread> others;
  for (unsigned index = 1; index < threads; ++index) others.emplace_back(run, index);
  run(0);
  for (std::thread& other : others) other.join();
}

int omp_get_thread_num() { return worker; }
int omp_get_num_threads() { return workers; }
int omp_get_max_threads() { return static_cast<int>(std::thread::hardware_concurrency()); }
int omp_in_parallel() { return workers > 1; }
}
