#pragma once

#include "cpu/kernels.h"
#include "report.h"

namespace fastrnn::test {

// Both directions of a layer at the same time give the same bits as one after the other.
void test_directions(const cpu::Kernels& kernels, uint64_t seed, Report& report);

}  // namespace fastrnn::test
