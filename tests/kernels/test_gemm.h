#pragma once

#include "cpu/kernels.h"
#include "report.h"

namespace fastrnn::test {

// GEMMs by panels, of operands that lie in memory in every way: right within rounding, the same bits for every plan.
void test_gemm(const cpu::Kernels& kernels, uint64_t seed, Report& report);

}  // namespace fastrnn::test
