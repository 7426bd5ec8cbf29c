#pragma once

#include "kernels/report.h"

namespace fastrnn::test {

void test_plan(Report& report);

}  // namespace fastrnn::test
