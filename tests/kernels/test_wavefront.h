#pragma once

#include "report.h"

namespace fastrnn::test {

// Calls that wait for one another: every one finds done what it needs, and what one throws ends all.
void test_wavefront(Report& report);

}  // namespace fastrnn::test
