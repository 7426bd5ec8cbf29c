// Runs kernels with something wrong in them, each under twenty orders of its threads:  test_faults [NAME]
//
// For each order, says on a line what came of it: what the emulator found, "NaN", "wrong values", or "nothing". Without
// a name, lists the names.
#include <algorithm>
#include <cstdio>
#include <string>

#include "gossip.h"
#include "relay_run.h"

namespace fastrnn::test {

namespace {

constexpr uint64_t kOrders = 20;
constexpr RelayShape kShape{5, 3, 64};

template <Wrong kWrong>
const char* relay_run() {
  return run_relay<kWrong>(kShape);
}

// Values of two bytes side by side.
template <class T>
struct Neighbours {
  T* values;      // (threads)
  float* others;  // (threads)
};

// A function that g++ does not inline of its own accord.
template <class T>
__attribute__((cold)) T converted(float value) {
  return T(value * 2);
}

enum class Meeting { kOfBlock, kOfWarp, kNone };

template <Meeting kMeeting>
__device__ void meet() {
  if (kMeeting == Meeting::kOfBlock) __syncthreads();
  if (kMeeting == Meeting::kOfWarp) __syncwarp();
}

template <class T, Meeting kFirst, Meeting kSecond>
__global__ void neighbours(const Neighbours<T> p) {
  const unsigned tid = threadIdx.x;
  p.values[tid] = converted<T>(static_cast<float>(tid));
  meet<kFirst>();
  p.others[tid] = static_cast<float>(p.values[(tid + 33) % blockDim.x]);
  meet<kSecond>();
  p.values[tid] = converted<T>(NAN);
}

template <class T, int kThreads, Meeting kFirst, Meeting kSecond>
const char* neighbours_run() {
  const emulation::Buffer<T> values(kThreads);
  const emulation::Buffer<float> others(kThreads);
  const Neighbours<T> params{values.data(), others.data()};
  cuda::launch(neighbours<T, kFirst, kSecond>, {1, 1, kThreads, 0, false}, params, nullptr);
  std::vector<float> expected;
  for (int i = 0; i < kThreads; ++i) expected.push_back(static_cast<float>((i + 33) % kThreads * 2));
  return compare(others, expected);
}

struct Crowd {
  float* value;     // (1), which is 2
  uint32_t* flags;  // (blocks), which begin as 0
  float* sums;      // (threads of all blocks)
};

constexpr int kCrowd = 5, kCrowdThreads = 64, kLooks = 9;

// Every thread reads a value time and again. When all blocks have, the first stores it anew; or it waits for all but
// the last.
template <bool kForgetLast>
__global__ void crowd(const Crowd p) {
  const int tid = static_cast<int>(threadIdx.x), block = static_cast<int>(blockIdx.x);
  float sum = 0;
  for (int look = 0; look < kLooks; ++look) {
    sum += *static_cast<const volatile float*>(p.value);
    if (look % 4 == block % 4) __syncthreads();
  }
  p.sums[block * kCrowdThreads + tid] = sum;
  __syncthreads();
  if (tid > 0) return;
  cuda::store_release(p.flags + block, 1);
  for (int other = 1; block == 0 && other < kCrowd - kForgetLast; ++other) {
    while (load_acquire(p.flags + other) == 0) __nanosleep(20);
  }
  if (block == 0) *p.value = 2;
}

template <bool kForgetLast>
const char* crowd_run() {
  const emulation::Buffer<float> value(1), sums(kCrowd * kCrowdThreads);
  const emulation::Buffer<uint32_t> flags(kCrowd);
  value[0] = 2;
  std::fill(flags.begin(), flags.end(), 0);
  const Crowd params{value.data(), flags.data(), sums.data()};
  cuda::launch(crowd<kForgetLast>, {kCrowd, 1, kCrowdThreads, 0, true}, params, nullptr);
  return compare(sums, std::vector<float>(sums.size(), 2 * kLooks));
}

struct Case {
  const char* name;
  const char* (*run)();
};

#define RELAY(name) {#name, relay_run<Wrong::k##name>}
#define GOSSIP(name) {"Gossip" #name, run_gossip<Mischief::k##name>}
constexpr Case kCases[] = {
    RELAY(Nothing),
    RELAY(BarrierBeforeReading),
    RELAY(BarrierBeforeReuse),
    RELAY(BarrierBeforeRelease),
    RELAY(WaitForCopies),
    RELAY(WaitForLastCopies),
    RELAY(Polling),
    RELAY(WarpMeeting),
    RELAY(Release),
    RELAY(Acquire),
    RELAY(Flag),
    RELAY(Initialisation),
    RELAY(ShuffleForWarpMeeting),
    RELAY(BarrierByOneWarp),
    RELAY(BarrierByTurns),
    RELAY(EarlyReturn),
    RELAY(ShuffleByHalf),
    RELAY(SharedPastEnd),
    RELAY(GlobalPastEnd),
    RELAY(GlobalBeforeStart),
    RELAY(Misaligned),
    RELAY(HostMemory),
    RELAY(CopyOverUnread),
    RELAY(StoreUnderCopy),
    RELAY(StoreAfterCopy),
    RELAY(CopyMisaligned),
    RELAY(CopyPastEnd),
    {"NothingInHalves", neighbours_run<__half, 64, Meeting::kOfBlock, Meeting::kOfBlock>},
    {"NothingInBfloats", neighbours_run<__nv_bfloat16, 64, Meeting::kOfBlock, Meeting::kOfBlock>},
    {"NothingInWarp", neighbours_run<__half, 32, Meeting::kOfWarp, Meeting::kOfWarp>},
    {"NothingInCrowd", crowd_run<false>},
    {"OneOfCrowd", crowd_run<true>},
    {"BarrierBetweenHalves", neighbours_run<__half, 64, Meeting::kNone, Meeting::kOfBlock>},
    {"BarrierBetweenBfloats", neighbours_run<__nv_bfloat16, 64, Meeting::kOfBlock, Meeting::kNone>},
    {"BarrierBetweenWarps", neighbours_run<__half, 64, Meeting::kOfWarp, Meeting::kOfBlock>},
    GOSSIP(Nothing),
    GOSSIP(ClusterMeeting),
    GOSSIP(ClusterMeetingByHalf),
    GOSSIP(Await),
    GOSSIP(Parity),
    GOSSIP(Expect),
    GOSSIP(TooMuchExpected),
    GOSSIP(OneBuffer),
    GOSSIP(BarrierBeforeSending),
    GOSSIP(LastAwait),
    GOSSIP(Rank),
    GOSSIP(Misaligned),
    {"MeetingBetweenLanes", neighbours_run<__half, 32, Meeting::kOfWarp, Meeting::kNone>},
};
#undef RELAY
#undef GOSSIP

std::string outcome(const Case& wrong, uint64_t seed) {
  emulation::set_seed(seed);
  std::string found;
  try {
    found = wrong.run();
  } catch (const emulation::Fault& fault) {
    found = fault.what();
  }
  std::replace(found.begin(), found.end(), '\n', ' ');
  return found;
}

int run(const std::string& name) {
  for (const Case& wrong : kCases) {
    if (name.empty()) std::puts(wrong.name);
    if (name != wrong.name) continue;
    for (uint64_t seed = 0; seed < kOrders; ++seed) std::puts(outcome(wrong, seed).c_str());
    return 0;
  }
  return name.empty() ? 0 : 2;
}

}  // namespace

}  // namespace fastrnn::test

int main(int count, char** arguments) { return fastrnn::test::run(count > 1 ? arguments[1] : ""); }
