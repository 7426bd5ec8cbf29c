// Which problems the kernels are tested on.
#pragma once

#include <random>
#include <string>
#include <vector>

#include "reference.h"

namespace fastrnn::test {

enum class Shape { kDense, kPacked, kPadded };

struct Case {
  CellKind cell;
  int64_t hidden, projection;  // 0 for none
  int64_t batch, steps;
  Shape shape;
  bool reverse;
  bool keep;
  bool biases;
  bool grad_output;
  bool second_direction;  // output lies beside that of another direction
  uint64_t seed;

  std::string name() const;
};

// Every cell with every size and shape; the other options are drawn, anew for each seed.
std::vector<Case> all_cases(uint64_t seed);

// Numbers that T can hold, so that the reference and the kernels start from the same.
template <class T>
Problem draw_problem(const Case& drawn);

}  // namespace fastrnn::test
