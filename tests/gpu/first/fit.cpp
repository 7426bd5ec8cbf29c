// How much of each kernel that keeps w_hh on the chip the current device holds at once, as lines of text:
// path, cell, precision, pass, hidden size, blocks of a cluster, how many.
#include <exception>
#include <sstream>
#include <string>

#include "cells/registry.h"
#include "cuda/kernels.h"

namespace {

using namespace fastrnn;

constexpr int64_t kBatch = cuda::kBatchRowsPerTile;
constexpr int64_t kClusterBlocks[] = {4, 8, 16};
constexpr int64_t kPersistentSizes[] = {256, 512, 768, 1024};

Dims dims_of(int64_t hidden) { return {kBatch, hidden, hidden, false}; }

struct Lines {
  std::ostringstream text;

  void add(const char* path, const char* cell, const char* precision, const char* pass, int64_t hidden, int64_t blocks,
           int64_t count) {
    text << path << ' ' << cell << ' ' << precision << ' ' << pass << ' ' << hidden << ' ' << blocks << ' ' << count
         << '\n';
  }
};

template <class T, cuda::MathMode kMath>
void add_kernels(Lines& lines, const char* name, CellKind cell, const char* precision) {
  for (const int64_t units : cuda::kClusterUnits) {
    const cuda::ClusterKernels<T>& kernels = cuda::cluster<T, kMath>(cell, units);
    for (const int64_t blocks : kClusterBlocks) {
      const Dims dims = dims_of(units * blocks);
      const int forward = kernels.forward.resident_clusters(dims, blocks, 1);
      const int backward = kernels.backward.resident_clusters(dims, blocks, 1);
      lines.add("cluster", name, precision, "forward", dims.hidden_size, blocks, forward);
      lines.add("cluster", name, precision, "backward", dims.hidden_size, blocks, backward);
    }
  }
  const cuda::PersistentKernels<T>& kernels = cuda::persistent<T, kMath>(cell);
  for (const int64_t hidden : kPersistentSizes) {
    const Dims dims = dims_of(hidden);
    lines.add("persistent", name, precision, "forward", hidden, 1, kernels.forward.resident_blocks(dims));
    lines.add("persistent", name, precision, "backward", hidden, 1, kernels.backward.resident_blocks(dims));
    if (kernels.split_backward.run) {
      const int64_t clusters = kernels.split_backward.resident_blocks(dims) / cuda::kSplitBlocks;
      lines.add("split", name, precision, "backward", hidden, cuda::kSplitBlocks, clusters);
    }
  }
}

template <class Cell>
void add_cell(Lines& lines, const char* name) {
  constexpr CellKind kCell = kind_of<Cell>();
  add_kernels<__nv_bfloat16, cuda::MathMode::kTensorCores>(lines, name, kCell, "bf16");
  add_kernels<__half, cuda::MathMode::kTensorCores>(lines, name, kCell, "f16");
  add_kernels<float, cuda::MathMode::kTensorCores>(lines, name, kCell, "tf32");
  add_kernels<float, cuda::MathMode::kExact>(lines, name, kCell, "f32");
}

}  // namespace

// Of the last call's device, until the next call; a line that begins with "error" where the device refused.
extern "C" __attribute__((visibility("default"))) const char* fastrnn_fit() {
  static std::string text;
  Lines lines;
  try {
    add_cell<Lstm>(lines, "LSTM");
    add_cell<Gru>(lines, "GRU");
    add_cell<Elman<Tanh>>(lines, "RNN");
  } catch (const std::exception& error) {
    lines.text << "error " << error.what() << '\n';
  }
  text = lines.text.str();
  return text.c_str();
}
