// Which path csrc/cuda/plan.cpp chooses on which device.
#include "test_plan.h"

#include <algorithm>
#include <cstdlib>
#include <stdexcept>
#include <string_view>
#include <utility>

#include "cells/registry.h"
#include "cuda/common/launch.h"
#include "cuda/plan.h"
#include "device.h"

namespace fastrnn::test {

namespace {

using cuda::Choice;
using cuda::Workload;

// What every kernel takes: four clusters or groups of 16 rows.
const Workload kPlain{100, {64, 64, 64, false}, 1, 1, true, true, false};

template <class Change>
Workload changed(const Change& change) {
  Workload work = kPlain;
  change(work);
  return work;
}

// A device, or FASTRNN_CUDA_PATH, as long as this lives.
class On {
 public:
  template <class Change>
  explicit On(const Change& change) {
    change(emulation::device());
    cuda::device_answers.forget();
  }
  explicit On(const char* path) { setenv("FASTRNN_CUDA_PATH", path, 1); }
  On(On&&) = delete;
  ~On() {
    emulation::device() = {};
    cuda::device_answers.forget();
    unsetenv("FASTRNN_CUDA_PATH");
  }
};

template <class T>
void expect_streamed(const char* why, const Workload& work, Report& report) {
  for (bool backward : {false, true}) {
    const Choice choice = cuda::choose_plan<T>(kind_of<Lstm>(), work, backward);
    const std::string_view told = words_of(choice.reasons[0]);
    if (choice.plan.path == Path::kStreamed && told.find(why) != std::string_view::npos) continue;
    report.fail(std::string("plan: for '") + why + "' the reason is '" + std::string(told) + "'");
  }
}

// blocks x groups x calls
template <class T>
void expect_grid(Path path, const cuda::Grid& grid, const Workload& work, Report& report) {
  for (bool backward : {false, true}) {
    const auto [plan, reasons] = cuda::choose_plan<T>(kind_of<Gru>(), work, backward);
    const auto& [blocks, groups, calls, split] = plan.grid;
    if (plan.path == path && blocks == grid.unit_blocks && groups == grid.batch_groups && calls == grid.calls &&
        split == (backward ? grid.split : 1)) {
      continue;
    }
    report.fail(std::string("plan: ") + name_of(plan.path) + ", " + std::to_string(blocks) + " x " +
                std::to_string(groups) + " x " + std::to_string(calls) + " blocks, split by " + std::to_string(split) +
                ", where " + name_of(path) + ", " + std::to_string(grid.unit_blocks) + " x " +
                std::to_string(grid.batch_groups) + " x " + std::to_string(grid.calls) + ", by " +
                std::to_string(grid.split) + " were expected");
  }
}

// Backward's grid where it is split into other groups than forward's.
template <class T>
void expect_split(const cuda::Grid& expected, const Workload& work, Report& report) {
  const cuda::Grid grid = cuda::choose_plan<T>(kind_of<Gru>(), work, true).plan.grid;
  if (grid.unit_blocks == expected.unit_blocks && grid.batch_groups == expected.batch_groups &&
      grid.calls == expected.calls && grid.split == expected.split) {
    return;
  }
  report.fail("plan: split by " + std::to_string(grid.split) + " in " + std::to_string(grid.batch_groups) +
              " groups, where " + std::to_string(expected.batch_groups) + " were expected");
}

// 64 units in 64 rows: 4 blocks of 16 units, or 2 of 32, for each of 4 tiles.
template <class T>
void test_clusters(Report& report) {
  const Workload both = changed([](Workload& work) { work.directions = 2; });
  expect_grid<T>(Path::kCluster, {4, 4, 1}, kPlain, report);
  expect_grid<T>(Path::kCluster, {4, 4, 2}, both, report);
  {
    const On small([](auto& device) { device.multiprocessors = 8, device.registers_per_thread = 255; });
    expect_grid<T>(Path::kCluster, {2, 4, 1}, kPlain, report);
    expect_grid<T>(Path::kCluster, {2, 2, 2}, both, report);
  }
  {
    const On tiny([](auto& device) { device.multiprocessors = 4, device.registers_per_thread = 255; });
    expect_grid<T>(Path::kCluster, {2, 2, 1}, kPlain, report);
  }
  {
    const On portable([](auto& device) { device.nonportable_clusters = false; });
    const Workload sixteen = changed([](Workload& work) { work.dims.hidden_size = work.dims.recurrent_size = 256; });
    expect_grid<T>(Path::kCluster, {8, 4, 1}, sixteen, report);
  }
  const Workload wide = changed([](Workload& work) { work.dims.hidden_size = work.dims.recurrent_size = 320; });
  expect_grid<T>(Path::kCluster, {10, 4, 1}, wide, report);
  const Workload odd = changed([](Workload& work) { work.dims.hidden_size = work.dims.recurrent_size = 272; });
  expect_grid<T>(Path::kPersistent, {17, 4, 1}, odd, report);
  const Workload too_wide = changed([](Workload& work) { work.dims.hidden_size = work.dims.recurrent_size = 544; });
  {
    const On usual([](auto& device) { device.registers_per_thread = 255; });
    expect_grid<T>(Path::kPersistent, {34, 3, 1}, too_wide, report);
  }
  const On cluster("cluster");
  expect_streamed<T>("no cluster holds", too_wide, report);
}

// Where there are no clusters.
template <class T>
void test_persistent(Report& report) {
  const Workload both = changed([](Workload& work) { work.directions = 2; });
  {
    const On old([](auto& device) { device.capability_major = 8; });
    expect_grid<T>(Path::kPersistent, {4, 4, 1}, kPlain, report);
  }
  {
    const On forced("persistent");
    expect_grid<T>(Path::kPersistent, {4, 4, 1}, kPlain, report);
  }
  const auto with = [&](int multiprocessors, const Workload& work, const cuda::Grid& grid) {
    const On small([&](auto& device) {
      device.capability_major = 8, device.multiprocessors = multiprocessors, device.registers_per_thread = 255;
    });
    expect_grid<T>(Path::kPersistent, grid, work, report);
  };
  with(15, kPlain, {4, 3, 1});
  with(4, kPlain, {4, 1, 1});
  with(17, both, {4, 2, 2});
  with(7, both, {4, 1, 1});
}

// From some batch size on, blocks read so much of the gradients of 640 units' gates that clusters split it.
template <class T>
void test_split(Report& report) {
  const auto of = [](int64_t hidden, int64_t batch) {
    return changed(
        [=](Workload& work) { work.dims.hidden_size = work.dims.recurrent_size = hidden, work.dims.batch = batch; });
  };
  const On usual([](auto& device) { device.registers_per_thread = 255; });
  const int64_t enough = (8 << 20) / (40 * 3 * 640 * static_cast<int64_t>(sizeof(T))) + 1;
  expect_grid<T>(Path::kPersistent, {40, std::min((enough + 15) / 16, int64_t{3}), 1, cuda::kSplitBlocks},
                 of(640, enough), report);
  expect_grid<T>(Path::kPersistent, {40, std::min((enough + 14) / 16, int64_t{3}), 1}, of(640, enough - 1), report);
  expect_grid<T>(Path::kPersistent, {42, 3, 1}, of(672, 480), report);
  {
    const On fewer([](auto& device) { device.clusters_of_sixteen = 7, device.registers_per_thread = 255; });
    expect_split<T>({40, 2, 1, cuda::kSplitBlocks}, of(640, 480), report);
  }
  {
    const On few([](auto& device) { device.clusters_of_sixteen = 2, device.registers_per_thread = 255; });
    expect_grid<T>(Path::kPersistent, {40, 3, 1}, of(640, 480), report);
  }
  setenv("FASTRNN_CUDA_LEAST_BYTES_TO_SPLIT", "0", 1);
  expect_grid<T>(Path::kPersistent, {36, 1, 1, cuda::kSplitBlocks}, of(576, 1), report);
  setenv("FASTRNN_CUDA_LEAST_BYTES_TO_SPLIT", "8M", 1);
  try {
    cuda::choose_plan<T>(kind_of<Gru>(), of(576, 1), true);
    report.fail("plan: FASTRNN_CUDA_LEAST_BYTES_TO_SPLIT=8M was taken");
  } catch (const std::runtime_error&) {
  }
  unsetenv("FASTRNN_CUDA_LEAST_BYTES_TO_SPLIT");
  const On old([](auto& device) { device.capability_major = 8, device.registers_per_thread = 255; });
  expect_grid<T>(Path::kPersistent, {40, 3, 1}, of(640, 480), report);
}

// Layers run concurrently if each then has the groups that it would have alone.
template <class T>
void test_layers(Report& report) {
  const auto of = [](int64_t layers, int64_t steps, int64_t batch) {
    return changed([=](Workload& work) { work.layers = layers, work.steps = steps, work.dims.batch = batch; });
  };
  expect_grid<T>(Path::kCluster, {4, 4, 3}, of(3, 128, 64), report);
  expect_grid<T>(Path::kCluster, {4, 4, cuda::kCallsAtOnce}, of(9, 128, 64), report);
  expect_grid<T>(Path::kCluster, {4, 4, 1}, of(3, 127, 64), report);
  const Workload both = changed([](Workload& work) { work.layers = 3, work.directions = 2, work.steps = 128; });
  expect_grid<T>(Path::kCluster, {4, 4, 2}, both, report);
  Workload ragged = of(3, 128, 64);
  ragged.dense = false;
  expect_grid<T>(Path::kCluster, {4, 4, 1}, ragged, report);
  {
    const On small([](auto& device) { device.multiprocessors = 35, device.registers_per_thread = 255; });
    expect_grid<T>(Path::kCluster, {4, 4, 2}, of(2, 128, 64), report);
    expect_grid<T>(Path::kCluster, {2, 4, 3}, of(3, 128, 64), report);
  }
  const On old([](auto& device) {
    device.capability_major = 8, device.multiprocessors = 35, device.registers_per_thread = 255;
  });
  expect_grid<T>(Path::kPersistent, {4, 4, 2}, of(3, 128, 64), report);
  expect_grid<T>(Path::kPersistent, {4, 8, 1}, of(3, 128, 128), report);
}

// The device is asked once: a later plan does not see that it has changed.
template <class T>
void test_device_is_asked_once(Report& report) {
  expect_grid<T>(Path::kCluster, {4, 4, 1}, kPlain, report);
  emulation::device().capability_major = 8;
  expect_grid<T>(Path::kCluster, {4, 4, 1}, kPlain, report);
  const On old([](auto& device) { device.capability_major = 8; });
  expect_grid<T>(Path::kPersistent, {4, 4, 1}, kPlain, report);
}

template <class T>
void test_type(Report& report) {
  test_device_is_asked_once<T>(report);
  test_clusters<T>(report);
  test_persistent<T>(report);
  test_split<T>(report);
  test_layers<T>(report);
  {
    const On one([](auto& device) { device.capability_major = 8, device.multiprocessors = 1; });
    expect_streamed<T>("do not fit", kPlain, report);
  }
  {
    const On shallow([](auto& device) { device.shared_per_block_opt_in = device.shared_per_multiprocessor = 1024; });
    expect_streamed<T>("do not fit", kPlain, report);
  }
  {
    const On old([](auto& device) { device.capability_major = 7; });
    expect_streamed<T>("compute capability", kPlain, report);
  }
  expect_streamed<T>("plain recurrence", changed([](Workload& work) { work.extended = true; }), report);
  expect_streamed<T>("projection", changed([](Workload& work) { work.dims.projected = true; }), report);
  expect_streamed<T>("single step", changed([](Workload& work) { work.steps = 1; }), report);
  expect_streamed<T>("multiple of 16", changed([](Workload& work) { work.dims.hidden_size = 72; }), report);
  expect_streamed<T>("nothing", changed([](Workload& work) { work.dims.batch = 0; }), report);
}

}  // namespace

void test_plan(Report& report) {
  test_type<float>(report);
  test_type<__half>(report);
  test_type<__nv_bfloat16>(report);
  expect_streamed<double>("float64", kPlain, report);
  for (bool allow_tf32 : {false, true}) {
    const Workload work = changed([&](Workload& each) { each.allow_tf32 = allow_tf32; });
    const bool exact = cuda::choose_plan<float>(kind_of<Gru>(), work, false).plan.math == cuda::MathMode::kExact;
    if (exact == allow_tf32) report.fail("plan: float32 does not multiply as it is allowed to");
  }
  const On forced("streamed");
  expect_streamed<__half>("FASTRNN_CUDA_PATH", kPlain, report);
}

}  // namespace fastrnn::test
