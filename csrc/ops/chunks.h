// How a pass cuts the sequence: in chunks, over which each gradient of the weights is one product, and these in
// sub-chunks, each of which a time loop runs at once. Both directions are cut at the same rows, so that each sub-chunk
// of the gradient of the input is a block that the two write one after the other.
#pragma once

#include <algorithm>
#include <utility>

#include "shape.h"

namespace fastrnn::ops {

// About so many rows a chunk, in so many sub-chunks.
struct Chunking {
  int64_t chunk_rows, sub_chunks;
};

// `whole`, of the direction that runs forwards, in up to `count` pieces of about as many rows.
inline std::vector<Chunk> cut(const Steps& steps, const Chunk& whole, int64_t count) {
  const int64_t total = whole.end_row - whole.first_row;
  std::vector<Chunk> pieces;
  Chunk piece{whole.begin, whole.begin, whole.first_row, whole.first_row};
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
class Chunks {
 public:
  Chunks(const LayerShape& shape, const Chunking& how) {
    const Steps steps = shape.direction(0);
    Direction& forward = directions_.emplace_back();
    forward.chunks = cut(steps, {0, shape.steps, 0, shape.rows}, std::max<int64_t>(shape.rows / how.chunk_rows, 1));
    for (size_t chunk = 0; chunk < forward.chunks.size(); ++chunk) {
      for (const Chunk& sub_chunk : cut(steps, forward.chunks[chunk], how.sub_chunks)) {
        forward.sub_chunks.push_back(sub_chunk);
        forward.chunk_of.push_back(chunk);
      }
    }
    if (shape.directions > 1) directions_.push_back(reversed(forward, shape.steps));
  }

  size_t count() const { return directions_[0].chunks.size(); }
  size_t sub_chunk_count() const { return directions_[0].sub_chunks.size(); }
  const std::vector<Chunk>& of(int64_t direction) const { return at(direction).chunks; }
  const std::vector<Chunk>& sub_chunks(int64_t direction) const { return at(direction).sub_chunks; }
  // Which chunk a sub-chunk belongs to, and whether it is the first of its sub-chunks.
  size_t chunk_of(int64_t direction, size_t sub_chunk) const { return at(direction).chunk_of[sub_chunk]; }
  bool begins_chunk(int64_t direction, size_t sub_chunk) const {
    return sub_chunk == 0 || chunk_of(direction, sub_chunk - 1) != chunk_of(direction, sub_chunk);
  }
  // Which block of rows a sub-chunk is, in the order of the data.
  size_t block(int64_t direction, size_t sub_chunk) const {
    return direction == 0 ? sub_chunk : sub_chunk_count() - 1 - sub_chunk;
  }
  int64_t most_rows() const { return most_rows(directions_[0].chunks); }
  int64_t most_rows_of_sub_chunk() const { return most_rows(directions_[0].sub_chunks); }

 private:
  struct Direction {
    std::vector<Chunk> chunks, sub_chunks;
    std::vector<size_t> chunk_of;
  };

  const Direction& at(int64_t direction) const { return directions_[static_cast<size_t>(direction)]; }

  static Direction reversed(const Direction& forward, int64_t steps) {
    const auto run_backwards = [&](const std::vector<Chunk>& pieces) {
      std::vector<Chunk> reverse(pieces.rbegin(), pieces.rend());
      for (Chunk& piece : reverse) {
        const int64_t begin = steps - piece.end;
        piece.end = steps - piece.begin;
        piece.begin = begin;
      }
      return reverse;
    };
    Direction reverse{run_backwards(forward.chunks), run_backwards(forward.sub_chunks), {}};
    for (size_t sub_chunk = forward.sub_chunks.size(); sub_chunk-- > 0;) {
      reverse.chunk_of.push_back(forward.chunks.size() - 1 - forward.chunk_of[sub_chunk]);
    }
    return reverse;
  }
  static int64_t most_rows(const std::vector<Chunk>& pieces) {
    int64_t most = 0;
    for (const Chunk& piece : pieces) most = std::max(most, piece.end_row - piece.first_row);
    return most;
  }

  std::vector<Direction> directions_;
};

}  // namespace fastrnn::ops
