// The arrays of one call: filled before it, and compared with the reference afterwards.
//
// Memory<T> is where a kernel finds its arrays: Guarded, or what an emulated GPU offers. It is made with a count of
// values, all of them poison, and has data(), size() and margin_intact().
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <sstream>
#include <string>
#include <vector>

#include "reference.h"
#include "report.h"

namespace fastrnn::test {

// Where `rows` rows of `columns` values lie: row i at offset + i * stride. The memory ends with the last stride.
struct Layout {
  int64_t rows, columns;
  int64_t stride, offset;

  static Layout plain(int64_t rows, int64_t columns) { return {rows, columns, columns, 0}; }
  int64_t size() const { return rows * stride; }
};

// A NaN with a payload that no arithmetic produces.
template <class T>
T poison() {
  const uint16_t half = 0x7fed;  // of either half type
  const uint32_t single = 0x7fc0dead;
  const uint64_t wide = 0x7ff8deaddeaddead;
  T value;
  if constexpr (sizeof(T) == sizeof half) std::memcpy(&value, &half, sizeof half);
  if constexpr (sizeof(T) == sizeof single) std::memcpy(&value, &single, sizeof single);
  if constexpr (sizeof(T) == sizeof wide) std::memcpy(&value, &wide, sizeof wide);
  return value;
}

template <class T>
bool same_bits(const T* a, const T* b, int64_t count) {
  return count == 0 || std::memcmp(a, b, static_cast<size_t>(count) * sizeof(T)) == 0;
}

// Values in memory as the layout says, poison where there are none.
template <class T>
void lay_out(const Values& values, const Layout& layout, T* out) {
  for (int64_t i = 0; i < layout.size(); ++i) out[i] = poison<T>();
  if (values.empty()) return;
  for (int64_t row = 0; row < layout.rows; ++row) {
    for (int64_t column = 0; column < layout.columns; ++column) {
      const double value = values[row * layout.columns + column];
      if (!std::isnan(value)) out[row * layout.stride + layout.offset + column] = static_cast<T>(value);
    }
  }
}

// What a kernel reads: kNothing becomes poison.
template <class T, template <class> class Memory>
class Input {
 public:
  Input(const Values& values, const Layout& layout) : memory_(layout.size()) {
    lay_out(values, layout, memory_.data());
  }
  const T* data() const { return memory_.data(); }

 private:
  Memory<T> memory_;
};

class AnyOutput {
 public:
  virtual ~AnyOutput() = default;
  virtual void check(const std::string& where, Report& report) = 0;
};

// What a kernel writes, perhaps after reading it. Where `after` is kNothing, `before` must be left bit for bit.
template <class T, template <class> class Memory>
class Output final : public AnyOutput {
 public:
  // before, after: dense (rows, columns), or empty for kNothing everywhere. tolerance: relative to 1 + |after|.
  Output(const char* name, const Layout& layout, const Values& before, const Values& after, double tolerance)
      : name_(name),
        layout_(layout),
        before_(static_cast<size_t>(layout.size())),
        after_(after),
        tolerance_(tolerance),
        memory_(layout.size()) {
    lay_out(before, layout, before_.data());
  }

  // As before the call.
  T* reset() {
    std::copy(before_.begin(), before_.end(), memory_.data());
    return memory_.data() + layout_.offset;
  }

  void check(const std::string& where, Report& report) override {
    for (int64_t i = 0; i < memory_.size(); ++i) {
      if (right(i, report)) continue;
      report.fail(where + ": " + describe(i));
      break;
    }
    if (!memory_.margin_intact()) report.fail(where + ": something was written beside " + name_);
    if (first_result_.empty()) {
      first_result_.assign(memory_.data(), memory_.data() + memory_.size());
    } else if (!same_bits(first_result_.data(), memory_.data(), memory_.size())) {
      report.fail(where + ": the bits of " + name_ + " differ from those of the first plan");
    }
  }

 private:
  // What value i of the memory should be; kNothing if what it was.
  double expected(int64_t i) const {
    const int64_t row = i / layout_.stride, column = i % layout_.stride - layout_.offset;
    const bool inside = column >= 0 && column < layout_.columns;
    return inside && !after_.empty() ? after_[row * layout_.columns + column] : kNothing;
  }

  double got(int64_t i) const {
    const T value = memory_.data()[i];
    if constexpr (sizeof(T) == 2) return static_cast<float>(value);  // a half type
    return value;
  }

  bool right(int64_t i, Report& report) const {
    const double wanted = expected(i);
    if (std::isnan(wanted)) return same_bits(memory_.data() + i, &before_[i], 1);
    const double share = std::fabs(got(i) - wanted) / (1 + std::fabs(wanted)) / tolerance_;
    report.note_error(share);
    return share <= 1;
  }

  std::string describe(int64_t i) const {
    std::ostringstream out;
    out << name_ << "[" << i / layout_.stride << ", " << i % layout_.stride - layout_.offset << "] is " << got(i);
    if (std::isnan(expected(i))) {
      out << ", but was not to be written";
    } else {
      out << ", not " << expected(i);
    }
    return out.str();
  }

  const char* name_;
  Layout layout_;
  std::vector<T> before_;
  Values after_;
  double tolerance_;
  std::vector<T> first_result_;
  Memory<T> memory_;
};

}  // namespace fastrnn::test
