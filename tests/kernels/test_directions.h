#pragma once

#include "cpu/kernels.h"
#include "report.h"

namespace fastrnn::test {

// Both directions of a layer at the same time: the numbers are those of one after the other, to the bit.
void test_directions(const cpu::Kernels& kernels, uint64_t seed, Report& report);

}  // namespace fastrnn::test
