// How a pass cuts the sequence: both directions at the same rows, so that each stretch's part of the gradient of the
// input is a block that the two write one after the other.
#pragma once

#include <algorithm>

#include "shape.h"

namespace fastrnn::ops {

// The steps of the direction that runs forwards, cut where about `rows` rows of data are together.
inline std::vector<Stretch> forward_stretches(const Steps& steps, int64_t total, int64_t rows) {
  const int64_t count = total / rows > 1 ? total / rows : 1;
  std::vector<Stretch> all;
  int64_t begin = 0, done = 0;
  for (int64_t i = 0; i < count; ++i) {
    int64_t end = begin, in_stretch = 0;
    while (end < steps.steps && (i == count - 1 || done + in_stretch < total * (i + 1) / count)) {
      in_stretch += steps.stored_rows(end++);
    }
    if (end == begin && i > 0) continue;
    all.push_back({begin, end, done, done + in_stretch});
    begin = end;
    done += in_stretch;
  }
  return all;
}

// The stretches of each direction, in the order in which it runs them: all have as many.
class Stretches {
 public:
  Stretches(const LayerShape& shape, int64_t rows)
      : directions_{forward_stretches(shape.direction(0), shape.rows, rows)} {
    if (shape.directions == 1) return;
    std::vector<Stretch>& reverse = directions_.emplace_back(directions_[0].rbegin(), directions_[0].rend());
    for (Stretch& stretch : reverse) {
      const int64_t begin = shape.steps - stretch.end;
      stretch.end = shape.steps - stretch.begin;
      stretch.begin = begin;
    }
  }

  size_t count() const { return directions_[0].size(); }
  const std::vector<Stretch>& of(int64_t direction) const { return directions_[static_cast<size_t>(direction)]; }
  // Which block of rows a direction's i-th stretch is, in the order of the data.
  size_t block(int64_t direction, size_t i) const { return direction == 0 ? i : count() - 1 - i; }
  int64_t most_rows() const {
    int64_t most = 0;
    for (const Stretch& stretch : directions_[0]) most = std::max(most, stretch.end_row - stretch.first_row);
    return most;
  }

 private:
  std::vector<std::vector<Stretch>> directions_;
};

}  // namespace fastrnn::ops
