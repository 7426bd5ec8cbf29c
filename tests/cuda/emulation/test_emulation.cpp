// What the emulated GPU computes, checked against the plainest way to say it.
#include <algorithm>
#include <bit>
#include <cstdio>
#include <random>
#include <string>
#include <vector>

#include "device.h"
#include "relay_run.h"

namespace fastrnn::test {

namespace {

using emulation::Buffer;

int failures = 0;

void expect(bool right, const std::string& what) {
  if (right) return;
  ++failures;
  std::fprintf(stderr, "FAILED %s\n", what.c_str());
}

template <class Call>
bool throws(const std::string& words, const Call& call) {
  try {
    call();
  } catch (const std::runtime_error& error) {
    return std::string(error.what()).find(words) != std::string::npos;
  }
  return false;
}

void test_relay() {
  for (const RelayShape& shape : {RelayShape{3, 1, 32}, {5, 3, 64}, {1, 2, 256}, {20, 8, 128}, {4, 40, 64}}) {
    for (uint64_t seed = 0; seed < 10; ++seed) {
      emulation::set_seed(seed);
      expect(run_relay<Wrong::kNothing>(shape) == kNothingWrong,
             "relay of " + std::to_string(shape.blocks) + " blocks");
    }
  }
}

// Where an operand's values lie, as CUTLASS has it (cute/atom/mma_traits_sm80.hpp): value v of lane 4 r + q is the
// element q * of_q + r * of_r + (the sum of the strides of the bits of v), column by column.
struct Fragment {
  int of_q, of_r;
  std::vector<int> of_bits;

  int element(int lane, int value) const {
    int element = lane % 4 * of_q + lane / 4 * of_r;
    for (size_t bit = 0; bit < of_bits.size(); ++bit) element += (value >> bit & 1) * of_bits[bit];
    return element;
  }
};

template <class T>
struct Layout;
template <>
struct Layout<__half> {
  static Fragment a() { return {32, 1, {16, 8, 128}}; }
  static Fragment b() { return {16, 1, {8, 64}}; }
};
template <>
struct Layout<__nv_bfloat16> : Layout<__half> {};
template <>
struct Layout<float> {
  static Fragment a() { return {16, 1, {8, 64}}; }
  static Fragment b() { return {8, 1, {32}}; }
};
const Fragment kSums{32, 1, {16, 8}};

template <class T>
struct Product {
  const uint32_t *a, *b;  // (lanes, registers)
  float* c;               // (lanes, 4)
};

template <class T>
__global__ void product(const Product<T> p) {
  const int lane = static_cast<int>(threadIdx.x);
  uint32_t a[4], b[2];
  float c[4];
  for (int i = 0; i < 4; ++i) a[i] = p.a[lane * 4 + i];
  for (int i = 0; i < 2; ++i) b[i] = p.b[lane * 2 + i];
  for (int i = 0; i < 4; ++i) c[i] = p.c[lane * 4 + i];
  cuda::Mma<T>::multiply_add(c, a, b);
  for (int i = 0; i < 4; ++i) p.c[lane * 4 + i] = c[i];
}

// Small whole numbers: every sum is exact.
std::vector<float> draw(std::mt19937& random, size_t count) {
  std::vector<float> values(count);
  for (float& value : values) value = static_cast<float>(static_cast<int>(random() % 31) - 15);
  return values;
}

template <class T>
void test_product(const char* type) {
  constexpr int kDepth = cuda::Mma<T>::kDepth, kValues = 4 / sizeof(T);  // of a register
  const Fragment a_layout = Layout<T>::a(), b_layout = Layout<T>::b();
  std::mt19937 random(1);
  const std::vector<float> a = draw(random, 16 * kDepth), b = draw(random, 8 * kDepth), c = draw(random, 16 * 8);
  const Buffer<T> a_registers(32 * 4 * kValues), b_registers(32 * 2 * kValues);
  const Buffer<float> c_registers(32 * 4);
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 4 * kValues; ++i) a_registers[lane * 4 * kValues + i] = T(a[a_layout.element(lane, i)]);
    for (int i = 0; i < 2 * kValues; ++i) b_registers[lane * 2 * kValues + i] = T(b[b_layout.element(lane, i)]);
    for (int i = 0; i < 4; ++i) c_registers[lane * 4 + i] = c[kSums.element(lane, i)];
  }
  const Product<T> params{reinterpret_cast<const uint32_t*>(a_registers.data()),
                          reinterpret_cast<const uint32_t*>(b_registers.data()), c_registers.data()};
  cuda::launch(product<T>, {1, 1, 32, 0, false}, params, nullptr);
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 4; ++i) {
      const int element = kSums.element(lane, i), row = element % 16, column = element / 16;
      float sum = c[element];
      for (int k = 0; k < kDepth; ++k) sum += a[row + 16 * k] * b[column + 8 * k];
      expect(c_registers[lane * 4 + i] == sum, std::string("product of ") + type);
    }
  }
}

void test_tf32() {
  const auto rounded = [](float value) { return std::bit_cast<float>(cuda::to_tf32(value)); };
  for (const float sign : {1.0f, -1.0f}) {
    expect(rounded(sign) == sign && rounded(sign * (1 + 0x1p-10f)) == sign * (1 + 0x1p-10f), "TF32 stays itself");
    expect(rounded(sign * (1 + 0x1p-11f)) == sign * (1 + 0x1p-10f), "ties go away from zero");
    expect(rounded(sign * (1 + 0x1p-11f - 0x1p-23f)) == sign, "less than half goes down");
    expect(rounded(sign * (2 - 0x1p-12f)) == sign * 2, "carries into the exponent");
    expect(rounded(sign * INFINITY) == sign * INFINITY, "infinity");
  }
  expect(std::isnan(rounded(NAN)), "NaN");
}

struct Shuffles {
  int* out;  // (5, 32)
};

__global__ void shuffles(const Shuffles p) {
  const int lane = static_cast<int>(threadIdx.x);
  const double value = 100 + lane;
  p.out[lane] = __shfl_sync(0xffffffffu, lane, 5);
  p.out[32 + lane] = static_cast<int>(__shfl_sync(0xffffffffu, value, lane + 3));
  p.out[64 + lane] = __shfl_xor_sync(0xffffffffu, lane, 12);
  p.out[96 + lane] = __shfl_down_sync(0xffffffffu, lane, 7);
  p.out[128 + lane] = __shfl_down_sync(0xffffffffu, lane, 3, 8);
}

void test_shuffles() {
  const Buffer<int> out(5 * 32);
  cuda::launch(shuffles, {1, 1, 32, 0, false}, Shuffles{out.data()}, nullptr);
  for (int lane = 0; lane < 32; ++lane) {
    const int expected[] = {5, 100 + (lane + 3) % 32, lane ^ 12, lane + 7 < 32 ? lane + 7 : lane,
                            lane % 8 < 5 ? lane + 3 : lane};
    for (int i = 0; i < 5; ++i) expect(out[i * 32 + lane] == expected[i], "shuffle " + std::to_string(i));
  }
}

struct Where {
  uint32_t* out;  // (blocks y, blocks x, threads)
};

__global__ void where(const Where p) {
  const uint32_t block = blockIdx.y * gridDim.x + blockIdx.x;
  p.out[block * blockDim.x + threadIdx.x] = block * 1000 + threadIdx.x + gridDim.y;
}

// More threads than run at once.
void test_coordinates() {
  const Buffer<uint32_t> out(30 * 7 * 96);
  cuda::launch(where, {30, 7, 96, 0, false}, Where{out.data()}, nullptr);
  for (uint32_t i = 0; i < out.size(); ++i) expect(out[i] == i / 96 * 1000 + i % 96 + 7, "coordinates");
}

struct Copies {
  const float* from;  // (threads, 4)
  float* to;
};

__global__ void copies(const Copies p) {
  const int tid = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  auto* const held = reinterpret_cast<float4*>(cuda::dynamic_shared());
  cuda::copy_async(held + tid, p.from + tid * 4, tid % 3 != 0);
  cuda::commit_copies();
  cuda::wait_for_copies<0>();
  __syncthreads();
  reinterpret_cast<float4*>(p.to)[tid] = held[threads - 1 - tid];
}

void test_copies() {
  const Buffer<float> from(64 * 4), to(64 * 4);
  for (size_t i = 0; i < from.size(); ++i) from[i] = static_cast<float>(i);
  cuda::launch(copies, {1, 1, 64, 64 * sizeof(float4), false}, Copies{from.data(), to.data()}, nullptr);
  for (size_t i = 0; i < to.size(); ++i) {
    const size_t source = 63 - i / 4;
    expect(to[i] == (source % 3 ? from[source * 4 + i % 4] : 0), "copy");
  }
}

struct Chain {
  float* values;    // (threads)
  float* late;      // (1)
  uint32_t* flags;  // (blocks), which begin as 0
  float* out;       // (threads)
};

// The first block's values, and one that its thread adds just before it says so, reach the last block through flags
// that others pass on, who never look at the values.
__global__ void chain(const Chain p) {
  const unsigned tid = threadIdx.x, block = blockIdx.x;
  if (block == 0) {
    p.values[tid] = static_cast<float>(tid);
  } else if (tid == 40) {
    while (load_acquire(p.flags + block - 1) == 0) __nanosleep(20);
  }
  __syncthreads();
  if (tid == 50) {
    if (block == 0) *p.late = 1000;
    cuda::store_release(p.flags + block, 1);
  }
  if (block + 1 == gridDim.x) p.out[tid] = p.values[(tid + 17) % blockDim.x] + *p.late;
}

void test_chain() {
  const Buffer<float> values(64), late(1), out(64);
  const Buffer<uint32_t> flags(5);
  std::fill(flags.begin(), flags.end(), 0);
  cuda::launch(chain, {5, 1, 64, 0, true}, Chain{values.data(), late.data(), flags.data(), out.data()}, nullptr);
  for (int i = 0; i < 64; ++i) expect(out[i] == static_cast<float>(1000 + (i + 17) % 64), "chain of flags");
}

struct Turns {
  uint32_t* counter;
  uint32_t* seen;  // (threads)
};

__global__ void turns(const Turns p) {
  const uint32_t seen = load_acquire(p.counter);
  cuda::store_release(p.counter, seen + 1);
  p.seen[threadIdx.x] = seen;
}

std::vector<uint32_t> order_of(uint64_t seed) {
  emulation::set_seed(seed);
  const Buffer<uint32_t> counter(1), seen(64);
  counter[0] = 0;
  cuda::launch(turns, {1, 1, 64, 0, false}, Turns{counter.data(), seen.data()}, nullptr);
  return {seen.begin(), seen.end()};
}

void test_seed() {
  expect(order_of(3) == order_of(3), "the same seed gives the same order");
  expect(order_of(3) != order_of(4), "another seed gives another order");
}

struct Flag {
  uint32_t* flag;
};

// Looks often at a flag that it need not wait for.
__global__ void looks(const Flag p) {
  for (int i = 0; i < 500; ++i) load_acquire(p.flag);
}

// Waits for ever, on stacks where AddressSanitizer guards a local array that the next kernel's is larger than.
__global__ void waits(const Flag p) {
  volatile uint32_t local[100];
  for (volatile uint32_t& value : local) value = 0;
  while (load_acquire(p.flag) == local[threadIdx.x]) __nanosleep(20);
}

__global__ void uses_stack(const Flag p) {
  volatile uint32_t local[1000];
  for (volatile uint32_t& value : local) value = 1;
  if (threadIdx.x == 0) *p.flag = local[threadIdx.x];
}

void test_flags() {
  const Buffer<uint32_t> flag(1);
  flag[0] = 0;
  cuda::launch(looks, {1, 1, 32, 0, false}, Flag{flag.data()}, nullptr);
  const auto wait = [&] { cuda::launch(waits, {1, 1, 32, 0, false}, Flag{flag.data()}, nullptr); };
  expect(throws("deadlock", wait), "deadlock");
  cuda::launch(uses_stack, {1, 1, 32, 0, false}, Flag{flag.data()}, nullptr);
  expect(flag[0] == 1, "launch after a deadlock");
}

void test_device() {
  emulation::device() = {};
  emulation::device().multiprocessors = 2;
  const Buffer<uint32_t> out(5 * 96);
  const auto launch = [&](int64_t blocks, int64_t shared_bytes, bool cooperative) {
    cuda::launch(where, {blocks, 1, 96, shared_bytes, cooperative}, Where{out.data()}, nullptr);
  };
  expect(throws("invalid argument", [&] { launch(1, 100 << 10, false); }), "shared memory needs an opt-in");
  const cuda::Launch too_high{1, 1 << 16, 32, 0, false};
  expect(throws("invalid configuration", [&] { cuda::launch(where, too_high, Where{}, nullptr); }), "grid too high");
  expect(cuda::resident_blocks(where, 96, 100 << 10) == 2, "two blocks fit");
  launch(4, 100 << 10, true);
  launch(5, 100 << 10, false);
  expect(throws("too many blocks in cooperative launch", [&] { launch(5, 100 << 10, true); }), "five do not");
  expect(cuda::resident_blocks(where, 96, 228 << 10) == 0, "more shared memory than the device has");
  int multiprocessors = 0;
  cuda::check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, 0));
  expect(multiprocessors == 2, "attribute");
  emulation::device() = {};
}

void test_memory() {
  const Buffer<float> a(6), b(6);
  expect(std::all_of(a.begin(), a.end(), [](float value) { return std::isnan(value); }), "memory begins as NaN");
  for (int i = 0; i < 6; ++i) a[i] = static_cast<float>(i);
  cuda::check(cudaMemcpy2DAsync(b.data(), 12, a.data() + 1, 8, 8, 2, cudaMemcpyDeviceToDevice, nullptr));
  expect(b[0] == 1 && b[1] == 2 && std::isnan(b[2]) && b[3] == 3 && b[4] == 4, "copy of two dimensions");
  expect(throws("outside", [&] { cudaMemsetAsync(b.data(), 0, 25, nullptr); }), "memset past the end");
  float host = 0;
  expect(throws("outside", [&] { cudaMemcpyAsync(b.data(), &host, 4, cudaMemcpyDeviceToDevice, nullptr); }), "host");
  cuda::check(cudaMemcpyAsync(b.data(), &host, 4, cudaMemcpyHostToDevice, nullptr));
  expect(b[0] == 0, "copy from the host");
}

int run() {
  test_product<__half>("half");
  test_product<__nv_bfloat16>("bfloat16");
  test_product<float>("TF32");
  test_tf32();
  test_shuffles();
  test_coordinates();
  test_copies();
  test_chain();
  test_seed();
  test_flags();
  test_device();
  test_memory();
  test_relay();
  if (failures == 0) std::puts("all right");
  return failures > 0;
}

}  // namespace

}  // namespace fastrnn::test

int main() { return fastrnn::test::run(); }
