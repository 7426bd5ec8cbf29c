#include "select.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace fastrnn::cpu {

namespace {

bool runs_here(const Kernels& kernels) {
#if defined(__x86_64__)
  if (&kernels == &kAvx512Kernels) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
  }
  if (&kernels == &kAvx2Kernels) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
  return &kernels == &kBaselineKernels;
}

const Kernels& choose_kernels() {
#if defined(__x86_64__)
  const Kernels* best_first[] = {&kAvx512Kernels, &kAvx2Kernels, &kBaselineKernels};
#else
  const Kernels* best_first[] = {&kBaselineKernels};
#endif
  const char* forced = std::getenv("FASTRNN_ISA");
  std::string available;
  for (const Kernels* candidate : best_first) {
    if (!runs_here(*candidate)) continue;
    if (!forced || !*forced || std::string(forced) == candidate->isa) return *candidate;
    available += std::string(available.empty() ? "" : ", ") + candidate->isa;
  }
  throw std::runtime_error("FASTRNN_ISA=" + std::string(forced) + " names no instruction set of this processor; use " +
                           available + ", or leave it unset");
}

}  // namespace

const Kernels& kernels() {
  static const Kernels chosen = [] {
    Kernels best = choose_kernels();
#if defined(__x86_64__)
    if (best.int8_weights == &kAvx512Int8Kernels && !__builtin_cpu_supports("avx512vnni")) {
      best.int8_weights = &kAvx2Int8Kernels;
    }
#endif
    return best;
  }();
  return chosen;
}

bool is_amd() {
#if defined(__x86_64__)
  return __builtin_cpu_is("amd");
#else
  return false;
#endif
}

}  // namespace fastrnn::cpu
