#include "race_shadow.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "memory.h"

namespace fastrnn::emulation::race {

namespace {

Cell* reserve() {
  constexpr size_t kBytes = (kSharedBytes + kGlobalBytes) / kGranule * sizeof(Cell);
  void* const memory =
      mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) std::perror("emulation: cannot reserve shadow memory"), std::abort();
  return static_cast<Cell*>(memory);
}

}  // namespace

void Shadow::begin_launch() {
  ++launch_;
  free_sets_.clear();
  for (size_t set = sets_.size(); set > 0; --set) free_sets_.push_back(static_cast<uint32_t>(set));
}

Cell& Shadow::cell(const void* address) {
  static Cell* const cells = reserve();
  static const char* const memory = gpu_memory();
  Cell& cell = cells[static_cast<size_t>(static_cast<const char*>(address) - memory) / kGranule];
  if (cell.launch != launch_) cell = {.launch = launch_};
  return cell;
}

Shadow::Set& Shadow::more_of(Cell& cell) {
  if (!cell.more) {
    if (free_sets_.empty()) {
      sets_.emplace_back();
      free_sets_.push_back(static_cast<uint32_t>(sets_.size()));
    }
    cell.more = free_sets_.back();
    free_sets_.pop_back();
    sets_[cell.more - 1].reads.clear();
    sets_[cell.more - 1].tidy_at = 8;
  }
  return sets_[cell.more - 1];
}

// Of each thread's reads, those that no later one stands for.
void Shadow::keep_latest(std::vector<Access>& reads) {
  std::sort(reads.begin(), reads.end(), [](const Access& a, const Access& b) { return a.epoch.bits < b.epoch.bits; });
  size_t kept = 0;
  for (size_t i = 0; i < reads.size(); ++i) {
    const bool is_last = i + 1 == reads.size() || reads[i + 1].epoch.thread() != reads[i].epoch.thread();
    if (is_last || !stands_for(reads[i + 1].epoch, reads[i].epoch)) reads[kept++] = reads[i];
  }
  reads.resize(kept);
}

void Shadow::forget_reads(Cell& cell) {
  cell.read = {};
  if (cell.more) free_sets_.push_back(cell.more);
  cell.more = 0;
}

void Shadow::end_read(Cell& cell, Epoch end) {
  const auto is_it = [end](Epoch read) { return read.under_way() && read.thread() == end.thread(); };
  if (is_it(cell.read)) {
    cell.read = end;
  } else if (cell.more) {
    std::vector<Access>& reads = sets_[cell.more - 1].reads;
    const auto found = std::find_if(reads.begin(), reads.end(), [&](const Access& read) { return is_it(read.epoch); });
    if (found != reads.end()) found->epoch = end;
  }
}

}  // namespace fastrnn::emulation::race
