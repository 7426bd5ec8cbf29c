// Which problems the kernels are tested on.
#pragma once

#include <random>
#include <string>
#include <vector>

#include "reference.h"

namespace fastrnn::test {

// The host may read the sizes of a padded batch; those of one with device sizes, on a GPU only the kernel.
enum class Shape { kDense, kPacked, kPadded, kDeviceSizes };

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

struct Coverage {
  std::vector<Shape> shapes;
  std::vector<int64_t> hidden, batches, steps;
  bool projections;
  bool empty;  // also no steps and no batch
};

// Every cell with every size and shape; the other options are drawn, anew for each seed.
std::vector<Case> all_cases(const Coverage& coverage, uint64_t seed);

// Rounded to the nearest number that T can represent.
template <class T>
double rounded(double value) {
  const T narrow = static_cast<T>(value);
  if constexpr (sizeof(T) == 2) {
    return static_cast<float>(narrow);  // a half type
  } else {
    return narrow;
  }
}
using Rounding = double (*)(double);

// Its numbers are rounded, so that the reference and the kernels start from the same.
Problem draw_problem(const Case& drawn, Rounding round);

}  // namespace fastrnn::test
