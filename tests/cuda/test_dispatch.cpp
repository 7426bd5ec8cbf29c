// Which path csrc/cuda/dispatch.cpp chooses on which device.
#include "test_dispatch.h"

#include <cstdlib>
#include <string_view>
#include <utility>

#include "cuda/dispatch.h"
#include "device.h"

namespace fastrnn::test {

namespace {

using cuda::Choice;
using cuda::Path;
using cuda::Workload;

// What a persistent kernel takes.
const Workload kPlain{100, {40, 64, 64, false}, false, true, false};

template <class Change>
Workload changed(const Change& change) {
  Workload work = kPlain;
  change(work);
  return work;
}

template <class T>
void expect_streamed(const char* why, const Workload& work, Report& report) {
  for (bool backward : {false, true}) {
    const Choice choice = cuda::choose_plan<T>(CellKind::kLstm, work, backward);
    if (choice.plan.path == Path::kStreamed && std::string_view(choice.reason).find(why) != std::string_view::npos) {
      continue;
    }
    report.fail(std::string("dispatch: for '") + why + "' the reason is '" + choice.reason + "'");
  }
}

// As many batch groups as there are tiles, or as fit.
template <class T>
void expect_persistent(const Workload& work, Report& report) {
  for (bool backward : {false, true}) {
    const Choice choice = cuda::choose_plan<T>(CellKind::kGru, work, backward);
    const auto& kernels = cuda::persistent<T>(CellKind::kGru);
    const int64_t resident =
        backward ? kernels.backward.resident_blocks(work.dims) : kernels.forward.resident_blocks(work.dims);
    const int64_t capacity = resident * emulation::device().multiprocessors;
    const auto [unit_blocks, batch_groups] = choice.plan.grid;
    const int64_t tiles = (work.dims.batch + cuda::kBatchRowsPerTile - 1) / cuda::kBatchRowsPerTile;
    const bool fits = unit_blocks * batch_groups <= capacity;
    const bool all = batch_groups == tiles || unit_blocks * (batch_groups + 1) > capacity;
    const bool right = choice.plan.path == Path::kPersistent && unit_blocks * 16 == work.dims.hidden_size &&
                       batch_groups >= 1 && batch_groups <= tiles && fits && all;
    if (!right) {
      report.fail("dispatch: " + std::to_string(unit_blocks) + " x " + std::to_string(batch_groups) + " blocks where " +
                  std::to_string(capacity) + " fit: " + choice.reason);
    }
  }
}

template <class T>
void test_type(Report& report) {
  const emulation::Device usual = emulation::device();
  expect_persistent<T>(kPlain, report);
  for (int multiprocessors : {4, 5, 6, 10}) {
    emulation::device().multiprocessors = multiprocessors;
    expect_persistent<T>(kPlain, report);
  }
  emulation::device().multiprocessors = 1;
  expect_streamed<T>("do not fit", kPlain, report);
  emulation::device() = usual;
  emulation::device().shared_per_block_opt_in = emulation::device().shared_per_multiprocessor = 1024;
  expect_streamed<T>("do not fit", kPlain, report);
  emulation::device() = usual;
  emulation::device().capability_major = 7;
  expect_streamed<T>("compute capability", kPlain, report);
  emulation::device() = usual;
  expect_streamed<T>("plain recurrence", changed([](Workload& work) { work.extended = true; }), report);
  expect_streamed<T>("projection", changed([](Workload& work) { work.dims.projected = true; }), report);
  expect_streamed<T>("lengths", changed([](Workload& work) { work.packed = true; }), report);
  expect_streamed<T>("single step", changed([](Workload& work) { work.steps = 1; }), report);
  expect_streamed<T>("multiple of 16", changed([](Workload& work) { work.dims.hidden_size = 72; }), report);
  expect_streamed<T>("nothing", changed([](Workload& work) { work.dims.batch = 0; }), report);
}

}  // namespace

void test_dispatch(Report& report) {
  test_type<float>(report);
  test_type<__half>(report);
  test_type<__nv_bfloat16>(report);
  expect_streamed<double>("float64", kPlain, report);
  setenv("FASTRNN_CUDA_PATH", "streamed", 1);
  expect_streamed<float>("FASTRNN_CUDA_PATH", kPlain, report);
  unsetenv("FASTRNN_CUDA_PATH");
  expect_streamed<float>("TF32", changed([](Workload& work) { work.allow_tf32 = false; }), report);
}

}  // namespace fastrnn::test
