#include "test_wavefront.h"

#include <stdexcept>
#include <string>
#include <vector>

#include "cpu/loop/wavefront.h"
#include "cpu/team/interrupt.h"

namespace fastrnn::test {

namespace {

constexpr size_t kSubChunks = 7;

// What a call's sub-chunk computes from that of the call ahead, and from its own previous one. Plain memory:
// ThreadSanitizer sees whether each reader waited for the writer.
using Grid = std::vector<std::vector<int>>;

int made_of(const Grid& grid, size_t call, size_t sub_chunk) {
  return (call > 0 ? grid[call - 1][sub_chunk] : 1) + (sub_chunk > 0 ? grid[call][sub_chunk - 1] : 1);
}

void test_order(int threads, size_t calls, Report& report) {
  Grid expected(calls, std::vector<int>(kSubChunks)), grid = expected;
  for (size_t call = 0; call < calls; ++call) {
    for (size_t sub_chunk = 0; sub_chunk < kSubChunks; ++sub_chunk)
      expected[call][sub_chunk] = made_of(expected, call, sub_chunk);
  }
  const auto job = [&](size_t call, size_t sub_chunk, cpu::Worker&) {
    grid[call][sub_chunk] = made_of(grid, call, sub_chunk);
  };
  if (!cpu::run_wavefront(threads, calls, kSubChunks, job)) report.fail(current_call + ": interrupted, by nobody");
  if (grid != expected) report.fail(current_call + ": a part ran before what it needs");
}

// Call `failing` fails in the middle.
void test_failure(int threads, size_t calls, size_t failing, Report& report) {
  const auto job = [&](size_t call, size_t sub_chunk, cpu::Worker&) {
    if (call == failing && sub_chunk == kSubChunks / 2) throw std::runtime_error("no memory");
  };
  try {
    cpu::run_wavefront(threads, calls, kSubChunks, job);
    report.fail(current_call + ": what a call threw was lost");
  } catch (const std::runtime_error& error) {
    if (error.what() != std::string("no memory")) report.fail(current_call + ": threw " + error.what());
  }
}

void test_interruption(int threads, size_t calls, Report& report) {
  cpu::interrupt_requested = [] { return true; };
  // Until the poll takes effect, which is rate-limited.
  const auto job = [](size_t, size_t, cpu::Worker& worker) {
    while (!worker.stopped()) worker.poll(0);
  };
  if (cpu::run_wavefront(threads, calls, kSubChunks, job))
    report.fail(current_call + ": went on after an interruption");
  cpu::interrupt_requested = nullptr;
}

// While the last call is at its last sub-chunk, the workers ahead of it are done. Only the first worker polls: the
// job's own poll does nothing unless OpenMP granted a single thread.
void test_late_interruption(int threads, size_t calls, Report& report) {
  cpu::interrupt_requested = [] { return true; };
  const auto job = [&](size_t call, size_t sub_chunk, cpu::Worker& worker) {
    if (call < calls - 1 || sub_chunk < kSubChunks - 1) return;
    while (!worker.stopped()) worker.poll(0);
  };
  if (cpu::run_wavefront(threads, calls, kSubChunks, job))
    report.fail(current_call + ": did not hear a late interruption");
  cpu::interrupt_requested = nullptr;
}

}  // namespace

void test_wavefront(Report& report) {
  for (const size_t calls : {1, 2, 3, 5}) {
    for (int threads = 1; threads <= 3 && threads <= static_cast<int>(calls); ++threads) {
      current_call = "a wavefront of " + std::to_string(calls) + " calls on " + std::to_string(threads) + " threads";
      test_order(threads, calls, report);
      for (size_t failing = 0; failing < calls; ++failing) test_failure(threads, calls, failing, report);
      test_interruption(threads, calls, report);
      if (threads > 1) test_late_interruption(threads, calls, report);
    }
  }
}

}  // namespace fastrnn::test
