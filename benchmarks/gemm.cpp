// The panel GEMM of csrc/cpu/gemm/panel_gemm.h alone, for products.py: compiled for this processor.
#include <chrono>
#include <memory>

#include "cpu/gemm/panel_gemm.h"
#include "cpu/team/cores.cpp"
#include "cpu/team/team.cpp"

using namespace fastrnn;
using namespace fastrnn::cpu;

// Seconds of one GEMM, the mean of so many; strides as of Matrix. threads, by_rows: as of GemmPlan.
extern "C" double gemm_seconds(float* out, const float* a, const float* b, int64_t rows, int64_t columns, int64_t depth,
                               const int64_t* strides, int threads, bool by_rows, int times) {
  PanelGemm<float, float> gemm{{out, rows, columns, strides[0], strides[1]},
                               {a, rows, depth, strides[2], strides[3]},
                               {b, depth, columns, strides[4], strides[5]},
                               false,
                               nullptr};
  const int64_t size = PanelGemmShare<Isa, float, float>::scratch_size(gemm);
  const auto scratch = std::make_unique<float[]>(static_cast<size_t>(threads * size));
  gemm.scratch = scratch.get();
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < times; ++i) multiply_panels<Isa, float, float>(gemm, {GemmCode::kPanels, threads, by_rows});
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() / times;
}
