// cp.async: what a thread has asked for and not yet waited for.
#pragma once

#include <cstddef>
#include <vector>

namespace fastrnn::emulation {

constexpr size_t kCopyBytes = 16;

struct Copy {
  char* shared;
  const char* global;
  bool valid;          // else zeros
  const void* caller;  // a return address into the kernel
};

// Copies happen as late as they may, when something waits for their group, or never.
class CopyQueue {
 public:
  void add(const Copy& copy) { copies_.push_back({copy, closed_}); }
  void close_group() { ++closed_; }
  bool empty() const { return copies_.empty(); }

  // Takes out the oldest copy, unless that is of one of the `pending` groups closed last, or of the open one.
  bool take(size_t pending, Copy& copy) {
    if (copies_.empty() || copies_[taken_].group + pending >= closed_) return false;
    copy = copies_[taken_++].copy;
    if (taken_ == copies_.size()) {
      copies_.clear();
      taken_ = 0;
    }
    return true;
  }

 private:
  struct Entry {
    Copy copy;
    size_t group;
  };
  std::vector<Entry> copies_;
  size_t taken_ = 0;
  size_t closed_ = 0;
};

}  // namespace fastrnn::emulation
