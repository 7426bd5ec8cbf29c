#pragma once

#include "report.h"

namespace fastrnn::test {

// Calls that wait for one another: each finds its dependencies done, and an exception in one ends all.
void test_wavefront(Report& report);

}  // namespace fastrnn::test
