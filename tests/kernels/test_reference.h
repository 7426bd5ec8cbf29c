#pragma once

#include "kernel_run.h"

namespace fastrnn::test {

void test_reference(Report& report);

}  // namespace fastrnn::test
