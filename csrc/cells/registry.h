// Every cell by its number or name: those of the list, and behind them those that users write, whose facts Python tells
// and whose kernels are compiled and loaded as they are needed (cpu/own_cell.h).
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string_view>
#include <utility>

#include "facts.h"

namespace fastrnn {

constexpr int kListedCells = PlainCells::kCount + ExtendedCells::kCount;

struct OwnCell {
  CellFacts facts;
  // Tables of kernels, cpu::CellKernels of float and of double; null until they are loaded.
  std::atomic<const void*> cpu_f32{nullptr}, cpu_f64{nullptr};
};

// Only ever grows, so that who has found a cell needs no lock.
class OwnCells {
 public:
  int count() const { return count_.load(std::memory_order_acquire); }
  OwnCell& operator[](int place) const { return *cells_[place]; }

  void add(const CellFacts& facts) {
    const std::lock_guard lock(mutex_);
    const int place = count();
    if (place == kMost) throw std::length_error("fastrnn: too many cells of one's own in one process");
    cells_[place] = std::make_unique<OwnCell>(facts);
    count_.store(place + 1, std::memory_order_release);
  }

 private:
  static constexpr int kMost = 4096;
  std::unique_ptr<OwnCell> cells_[kMost];
  std::atomic<int> count_{0};
  std::mutex mutex_;
};

inline OwnCells own_cells;

// Null for a cell of the list.
inline OwnCell* own_cell(CellKind cell) {
  const int place = static_cast<int>(cell) - kListedCells;
  return place >= 0 ? &own_cells[place] : nullptr;
}

inline const CellFacts& cell_facts(CellKind cell) {
  const OwnCell* own = own_cell(cell);
  return own ? own->facts : kCellFacts.facts[static_cast<int>(cell)];
}

// What graphs, caches and exported programs hold of a cell is its name, and of one that is not part of the package,
// whose version would tell, `name@hash` with a hash of its text.
constexpr std::string_view without_hash(std::string_view name) { return name.substr(0, name.find('@')); }

// The first cell whose name fits; none if there is no such cell.
template <class Fits>
std::optional<CellKind> find_cell_if(const Fits& fits) {
  const int count = kListedCells + own_cells.count();
  for (int place = 0; place < count; ++place) {
    const auto cell = static_cast<CellKind>(place);
    if (fits(std::string_view(cell_facts(cell).name.text))) return cell;
  }
  return {};
}

inline std::optional<CellKind> find_cell(std::string_view name) {
  return find_cell_if([&](std::string_view known) { return known == name; });
}

// Whether there is no such cell, but one that differs from it in the hash alone.
inline bool is_another_version(std::string_view name) {
  const auto differs = [&](std::string_view known) { return without_hash(known) == without_hash(name); };
  return !find_cell(name) && find_cell_if(differs);
}

}  // namespace fastrnn
