// How a pass cuts the sequence: in stretches, over which each gradient of the weights is one product, and these in
// parts, each of which a time loop runs at once. Both directions are cut at the same rows, so that each part of the
// gradient of the input is a block that the two write one after the other.
#pragma once

#include <algorithm>
#include <utility>

#include "shape.h"

namespace fastrnn::ops {

// About so many rows a stretch, in so many parts.
struct Cut {
  int64_t stretch_rows, parts;
};

// `whole`, of the direction that runs forwards, in up to `count` pieces of about as many rows.
inline std::vector<Stretch> cut(const Steps& steps, const Stretch& whole, int64_t count) {
  const int64_t total = whole.end_row - whole.first_row;
  std::vector<Stretch> pieces;
  Stretch piece{whole.begin, whole.begin, whole.first_row, whole.first_row};
  for (int64_t i = 1; i <= count; ++i) {
    while (piece.end < whole.end && (i == count || piece.end_row < whole.first_row + total * i / count)) {
      piece.end_row += steps.stored_rows(piece.end++);
    }
    if (piece.end == piece.begin) continue;
    pieces.push_back(piece);
    piece = {piece.end, piece.end, piece.end_row, piece.end_row};
  }
  if (pieces.empty()) pieces.push_back(whole);
  return pieces;
}

// Of each direction, in the order in which it runs them: all have as many.
class Stretches {
 public:
  Stretches(const LayerShape& shape, const Cut& how) {
    const Steps steps = shape.direction(0);
    Direction& forward = directions_.emplace_back();
    forward.stretches =
        cut(steps, {0, shape.steps, 0, shape.rows}, std::max<int64_t>(shape.rows / how.stretch_rows, 1));
    for (size_t stretch = 0; stretch < forward.stretches.size(); ++stretch) {
      for (const Stretch& part : cut(steps, forward.stretches[stretch], how.parts)) {
        forward.parts.push_back(part);
        forward.stretch_of.push_back(stretch);
      }
    }
    if (shape.directions > 1) directions_.push_back(reversed(forward, shape.steps));
  }

  size_t count() const { return directions_[0].stretches.size(); }
  size_t part_count() const { return directions_[0].parts.size(); }
  const std::vector<Stretch>& of(int64_t direction) const { return at(direction).stretches; }
  const std::vector<Stretch>& parts(int64_t direction) const { return at(direction).parts; }
  // Which stretch a part belongs to, and whether it is the first of its parts.
  size_t stretch_of(int64_t direction, size_t part) const { return at(direction).stretch_of[part]; }
  bool begins_stretch(int64_t direction, size_t part) const {
    return part == 0 || stretch_of(direction, part - 1) != stretch_of(direction, part);
  }
  // Which block of rows a part is, in the order of the data.
  size_t block(int64_t direction, size_t part) const { return direction == 0 ? part : part_count() - 1 - part; }
  int64_t most_rows() const { return most_rows(directions_[0].stretches); }
  int64_t most_rows_of_part() const { return most_rows(directions_[0].parts); }

 private:
  struct Direction {
    std::vector<Stretch> stretches, parts;
    std::vector<size_t> stretch_of;
  };

  const Direction& at(int64_t direction) const { return directions_[static_cast<size_t>(direction)]; }

  static Direction reversed(const Direction& forward, int64_t steps) {
    const auto run_backwards = [&](const std::vector<Stretch>& pieces) {
      std::vector<Stretch> reverse(pieces.rbegin(), pieces.rend());
      for (Stretch& piece : reverse) {
        const int64_t begin = steps - piece.end;
        piece.end = steps - piece.begin;
        piece.begin = begin;
      }
      return reverse;
    };
    Direction reverse{run_backwards(forward.stretches), run_backwards(forward.parts), {}};
    for (size_t part = forward.parts.size(); part-- > 0;) {
      reverse.stretch_of.push_back(forward.stretches.size() - 1 - forward.stretch_of[part]);
    }
    return reverse;
  }
  static int64_t most_rows(const std::vector<Stretch>& pieces) {
    int64_t most = 0;
    for (const Stretch& piece : pieces) most = std::max(most, piece.end_row - piece.first_row);
    return most;
  }

  std::vector<Direction> directions_;
};

}  // namespace fastrnn::ops
