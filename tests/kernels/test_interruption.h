// Interrupted calls: they return, on every thread, and report the interruption.
#pragma once

#include "cpu/kernels.h"
#include "report.h"

namespace fastrnn::test {

void test_interruption(const cpu::Kernels& kernels, Report& report);

}  // namespace fastrnn::test
