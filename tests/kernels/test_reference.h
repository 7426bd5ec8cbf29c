#pragma once

#include "report.h"

namespace fastrnn::test {

void test_reference(Report& report);

}  // namespace fastrnn::test
