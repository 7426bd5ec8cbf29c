// Barriers of blocks and warps, and what a warp does together.
#include <bit>
#include <span>
#include <utility>

#include "observer.h"
#include "scheduler.h"

namespace fastrnn::emulation {

namespace {

uint32_t bit(const Thread& thread) { return 1u << thread.lane; }

[[noreturn]] void diverged(const Thread& thread, Place place, const std::string& while_what) {
  scheduler().fail("divergent: " + describe(thread) + " came to " + describe(place) + " while " + while_what);
}

void require_same_place(const Thread& thread, const Thread& other, Place place) {
  if (!same(other.place, place)) diverged(thread, place, describe(other) + " waits for it in " + describe(other.place));
}

void release_all(Block& block) {
  for (Warp& each : block.warps) {
    each.at_block = 0;
    scheduler().make_ready(each);
  }
}

Thread& arrive(Place place) {
  Thread& self = scheduler().running();
  self.flag = nullptr;
  self.place = place;
  return self;
}

}  // namespace

void meet_block(Place place) {
  const InEmulator scope;
  Thread& self = arrive(place);
  Warp& warp = *self.warp;
  Block& block = *warp.block;
  if (block.ended > 0) diverged(self, place, "a thread of its block has ended");
  if (warp.at_meeting) diverged(self, place, "lanes of its warp wait for it to do something together");
  if (block.arrived == 0 && warp.at_block) diverged(self, place, "lanes of its warp wait for the cluster");
  if (block.arrived == 0) block.first = &self;
  require_same_place(self, *block.first, place);
  warp.at_block |= bit(self);
  if (++block.arrived == block.thread_count) {
    block.arrived = 0;
    block.last_any = std::exchange(block.any, false);
    release_all(block);
    if (observer) observer->met(block);
  }
  scheduler().suspend();
}

bool meet_block_or(bool value, Place place) {
  Block& block = *scheduler().running().warp->block;
  if (value) block.any = true;
  meet_block(place);
  return block.last_any;
}

void meet_cluster(Place place) {
  const InEmulator scope;
  Thread& self = arrive(place);
  Warp& warp = *self.warp;
  Cluster& cluster = *warp.block->cluster;
  const std::span<Block> blocks(cluster.blocks, cluster.size);
  for (const Block& block : blocks) {
    if (block.ended > 0) diverged(self, place, "a thread of its cluster has ended");
  }
  if (warp.block->arrived > 0) diverged(self, place, "threads of its block wait at their own barrier");
  if (warp.at_meeting) diverged(self, place, "lanes of its warp wait for it to do something together");
  if (cluster.arrived == 0) cluster.first = &self;
  require_same_place(self, *cluster.first, place);
  warp.at_block |= bit(self);
  if (++cluster.arrived == cluster.size * warp.block->thread_count) {
    cluster.arrived = 0;
    for (Block& block : blocks) release_all(block);
    if (observer) observer->met(cluster);
  }
  scheduler().suspend();
}

namespace {

void meet_lanes(Combine* combine, void* operands, Place place) {
  const InEmulator scope;
  Thread& self = arrive(place);
  Warp& warp = *self.warp;
  if (warp.ended) diverged(self, place, "a lane of its warp has ended");
  if (warp.at_block) diverged(self, place, "lanes of its warp wait at a barrier of the block");
  if (!warp.at_meeting) warp.combine = combine;
  if (combine != warp.combine) diverged(self, place, "lanes of its warp do something else together");
  if (warp.at_meeting) require_same_place(self, warp.threads[std::countr_zero(warp.at_meeting)], place);
  warp.at_meeting |= bit(self);
  warp.operands[self.lane] = operands;
  if (warp.at_meeting == ~0u) {
    warp.at_meeting = 0;
    scheduler().make_ready(warp);
    if (combine) {
      combine(warp.operands);
    } else if (observer) {
      observer->met(warp);
    }
  }
  scheduler().suspend();
}

}  // namespace

void meet_warp(Place place) { meet_lanes(nullptr, nullptr, place); }

void meet_warp_and(Combine* combine, void* operands, Place place) { meet_lanes(combine, operands, place); }

void require_full_mask(unsigned mask, Place place) {
  if (mask != ~0u) scheduler().fail("a mask of part of a warp in " + describe(place));
}

}  // namespace fastrnn::emulation
