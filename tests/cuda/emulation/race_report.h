// What the race detector found in a launch, in words.
#pragma once

#include <set>
#include <string>
#include <utility>
#include <vector>

#include "race_shadow.h"

namespace fastrnn::emulation::race {

enum class Kind { kRace, kUninitialised, kNotItsOwn };

struct Finding {
  Kind kind;
  const void* address;
  Access access;
  bool writes;
  Access before;  // in a race: what it conflicts with
  bool wrote;
};

Code code_of(const void* instruction);

class Report {
 public:
  // Of findings in the same lines of code, the first is kept.
  void add(const Finding& finding);
  // Empty if nothing was found.
  std::string text(size_t threads, size_t threads_of_block) const;

 private:
  size_t found_ = 0;
  std::set<std::pair<Code, Code>> seen_;
  std::vector<Finding> findings_;
};

}  // namespace fastrnn::emulation::race
