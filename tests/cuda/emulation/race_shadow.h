// Who wrote and read each piece of the emulated GPU's memory.
#pragma once

#include <cstdint>
#include <vector>

#include "race_clock.h"

namespace fastrnn::emulation::race {

constexpr size_t kGranule = 2;  // bytes; what two threads do to one granule counts as done to the same bytes

using Code = uint32_t;  // an instruction of the program, as an offset

struct Access {
  Epoch epoch;
  Code code;
};

// Of one granule, in the launch with that number.
struct Cell {
  Epoch write, read;  // the last write, and the only read that matters unless there are `more`
  Code write_code, read_code;
  uint32_t more;  // 1 + an index into the shadow's sets, or 0
  uint32_t launch;
};

class Shadow {
 public:
  void begin_launch();

  // The cell of an address in the emulated GPU's memory, cleared if the launch has not seen it yet.
  Cell& cell(const void* address);

  void forget_reads(Cell& cell);

  // `knows(epoch)` says which reads on record happened before this one.
  template <class Knows>
  void add_read(Cell& cell, const Access& read, const Knows& knows);
  template <class Visit>
  void visit_reads(const Cell& cell, const Visit& visit) const;
  // A read under way, of the same thread as `end`, ends then.
  void end_read(Cell& cell, Epoch end);

 private:
  struct Set {
    std::vector<Access> reads;
    size_t tidy_at;
  };
  static constexpr size_t kPlaces = 1 << 16;

  Set& more_of(Cell& cell);
  static void keep_latest(std::vector<Access>& reads);

  uint32_t launch_ = 0;
  std::vector<Set> sets_;
  std::vector<uint32_t> free_sets_;
  std::vector<uint32_t> places_ = std::vector<uint32_t>(kPlaces);  // where in a set a thread's read was last
};

// Whether a read can be forgotten for a later one of the same thread, or of one that knows of it: every write that must
// come after the old one must come after the new one too.
inline bool stands_for(Epoch read, Epoch old) { return !old.under_way() && (old.atomic() || !read.atomic()); }

template <class Visit>
void Shadow::visit_reads(const Cell& cell, const Visit& visit) const {
  if (cell.read) visit(Access{cell.read, cell.read_code});
  if (!cell.more) return;
  for (const Access& read : sets_[cell.more - 1].reads) visit(read);
}

template <class Knows>
void Shadow::add_read(Cell& cell, const Access& read, const Knows& knows) {
  const auto forgotten = [&](Epoch old) { return stands_for(read.epoch, old) && knows(old); };
  if (!cell.read || forgotten(cell.read)) {
    cell.read = read.epoch;
    cell.read_code = read.code;
    return;
  }
  Set& set = more_of(cell);
  const size_t thread = read.epoch.thread();
  uint32_t& place = places_[(cell.more * size_t{0x9e3779b1} + thread) % kPlaces];
  if (place < set.reads.size() && set.reads[place].epoch.thread() == thread && forgotten(set.reads[place].epoch)) {
    set.reads[place] = read;
    return;
  }
  if (set.reads.size() >= set.tidy_at) {
    std::erase_if(set.reads, [&](const Access& old) { return forgotten(old.epoch); });
    keep_latest(set.reads);
    set.tidy_at = 2 * set.reads.size() + 8;
  }
  place = static_cast<uint32_t>(set.reads.size());
  set.reads.push_back(read);
}

}  // namespace fastrnn::emulation::race
