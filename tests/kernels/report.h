// Results of the tests.
#pragma once

#include <cmath>
#include <cstdio>
#include <string>

namespace fastrnn::test {

// Collects what went wrong, and how near the bound the rest came.
class Report {
 public:
  void fail(const std::string& message) {
    ++failures_;
    std::fprintf(stderr, "FAILED %s\n", message.c_str());
  }
  void note_error(double share_of_bound) { largest_error_ = std::fmax(largest_error_, share_of_bound); }
  void add(const Report& other) {
    failures_ += other.failures_;
    note_error(other.largest_error_);
  }
  bool enough() const { return failures_ >= kEnough; }
  int failures() const { return failures_; }
  double largest_error() const { return largest_error_; }

 private:
  static constexpr int kEnough = 10;
  int failures_ = 0;
  double largest_error_ = 0;
};

// The call that is running: what to name if a sanitizer ends the program.
inline std::string current_call;

}  // namespace fastrnn::test
