// What orders the accesses of a kernel's threads, for whoever looks for accesses that nothing orders
// (race_detector.cpp).
#pragma once

#include "copies.h"
#include "scheduler.h"

namespace fastrnn::emulation {

// A caller is a return address into the kernel.
class Observer {
 public:
  virtual void launch_begins(size_t threads, size_t threads_of_block) = 0;
  virtual std::string launch_ends() = 0;  // what was wrong
  virtual void met(const Block& block) = 0;
  virtual void met(const Warp& warp) = 0;  // in __syncwarp alone: other meetings order nothing
  virtual void met(const Cluster& cluster) = 0;
  virtual void released(const Thread& thread, const uint32_t* flag, const void* caller) = 0;
  virtual void polled(const Thread& thread, const uint32_t* flag, const void* caller) = 0;
  virtual void acquired(const Thread& thread, const uint32_t* flag) = 0;
  virtual void mbarrier_made(const Thread& thread, const MBarrier& barrier, const void* caller) = 0;
  virtual void mbarrier_expected(const Thread& thread, const MBarrier& barrier, const void* caller) = 0;
  virtual void mbarrier_waited(const Thread& thread, const MBarrier& barrier, const void* caller) = 0;
  virtual void mbarrier_completed(const MBarrier& barrier) = 0;
  virtual void delivery_begins(const Thread& thread, const Delivery& delivery) = 0;
  virtual void delivery_arrived(const Delivery& delivery) = 0;
  virtual void copy_begins(const Thread& thread, const Copy& copy) = 0;
  virtual void copy_ends(const Thread& thread, const Copy& copy) = 0;

 protected:
  ~Observer() = default;
};

extern Observer* observer;  // or null

}  // namespace fastrnn::emulation
