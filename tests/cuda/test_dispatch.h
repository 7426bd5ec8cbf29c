#pragma once

#include "kernels/report.h"

namespace fastrnn::test {

void test_dispatch(Report& report);

}  // namespace fastrnn::test
