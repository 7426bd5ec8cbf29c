// tanh and sigmoid of the vectors of one instruction set, that which the compiler's flags name: every exponent of
// f32 and f64 against the next wider type, and the special values.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <random>
#include <vector>

#include "cpu/isa/vector_math.h"

namespace fastrnn::test {

namespace {

using cpu::Isa;

template <class T>
using Vector = typename cpu::Simd<Isa, T>::V;

int failures = 0;

void expect(bool right, const char* what, double x, double got) {
  if (right) return;
  if (++failures <= 20) std::fprintf(stderr, "FAILED %s %s: x = %.17g gives %.17g\n", Isa::kName, what, x, got);
}

template <class T>
struct Wider;
template <>
struct Wider<float> {
  using type = double;
};
template <>
struct Wider<double> {
  using type = long double;
};
template <class T>
using Wide = typename Wider<T>::type;

template <class T>
struct Function {
  const char* name;
  Vector<T> (*vector)(Vector<T>);
  Wide<T> (*exact)(Wide<T>);
  double ulps;   // the bound
  Wide<T> tiny;  // errors up to this do not count
};

// Where 1 / (1 + e^-x) is not a normal number, the kernels' sigmoid saturates or is 0: no gate's value depends on it.
// tiny bounds the error there.
template <class T>
std::vector<Function<T>> functions() {
  const Wide<T> least_sigmoid = std::exp(Wide<T>(sizeof(T) == 4 ? -87 : -708));
  return {{"tanh", [](Vector<T> x) { return Math<Vector<T>>::tanh(x); }, [](Wide<T> x) { return std::tanh(x); },
           sizeof(T) == 4 ? 6.0 : 2.75, 0},
          {"sigmoid", [](Vector<T> x) { return sigmoid<Vector<T>>(x); },
           [](Wide<T> x) { return 1 / (1 + std::exp(-x)); }, 2.75, least_sigmoid}};
}

// The spacing of T's numbers around x.
template <class T>
Wide<T> spacing(Wide<T> x) {
  constexpr int kDigits = std::numeric_limits<T>::digits;
  const int exponent = std::max(std::ilogb(x), std::numeric_limits<T>::min_exponent - 1);
  return std::ldexp(Wide<T>(1), exponent - kDigits + 1);
}

// The error in ulps.
template <class T>
double error(const Function<T>& f, T x, T got) {
  const Wide<T> exact = f.exact(x);
  if (std::isnan(exact)) return std::isnan(got) ? 0 : INFINITY;
  const Wide<T> difference = std::fabs(got - exact);
  return difference <= f.tiny ? 0 : static_cast<double>(difference / spacing<T>(exact));
}

template <class T>
void evaluate(const Function<T>& f, const T* x, T* y) {
  using S = cpu::Simd<Isa, T>;
  S::store(y, f.vector(S::load(x)));
}

// Both signs of numbers of every exponent, most of them where the functions are not just 0, 1, x or infinite.
template <class T>
std::vector<T> all_exponents(uint64_t seed) {
  constexpr int kLeast = std::numeric_limits<T>::min_exponent - std::numeric_limits<T>::digits;
  std::mt19937_64 random(seed);
  std::uniform_real_distribution<T> mantissa(1, 2);
  std::vector<T> values;
  for (int exponent = kLeast; exponent < std::numeric_limits<T>::max_exponent; ++exponent) {
    const int count = exponent >= -14 && exponent <= 10 ? 1 << 15 : 1 << 7;
    for (int i = 0; i < count; ++i) {
      const T value = std::ldexp(mantissa(random), exponent);
      values.push_back(value);
      values.push_back(-value);
    }
  }
  // Where e^-x overflows.
  const T edge = std::log(std::numeric_limits<T>::max());
  for (int i = -1000; i <= 1000; ++i) {
    values.push_back(edge + i * edge * std::numeric_limits<T>::epsilon());
    values.push_back(-values.back());
  }
  values.resize(values.size() / 64 * 64);
  return values;
}

template <class T>
void test_accuracy(const char* type, uint64_t seed) {
  constexpr int kLanes = cpu::Simd<Isa, T>::kLanes;
  const std::vector<T> values = all_exponents<T>(seed);
  for (const Function<T>& f : functions<T>()) {
    double largest = 0;
    T y[kLanes];
    for (size_t i = 0; i < values.size(); i += kLanes) {
      evaluate(f, &values[i], y);
      for (int lane = 0; lane < kLanes; ++lane) {
        const double ulps = error<T>(f, values[i + lane], y[lane]);
        expect(ulps <= f.ulps, f.name, values[i + lane], y[lane]);
        largest = std::fmax(largest, ulps);
      }
    }
    std::printf("%-6s %s %-7s largest error %.2f ulp of %zu values\n", Isa::kName, type, f.name, largest,
                values.size());
  }
}

// Each special value in every lane, beside ordinary ones.
template <class T>
void test_specials() {
  constexpr int kLanes = cpu::Simd<Isa, T>::kLanes;
  using Limits = std::numeric_limits<T>;
  const T least = Limits::denorm_min(), inf = Limits::infinity();
  struct Special {
    T x, tanh, sigmoid;
  };
  const Special specials[] = {{T(0), T(0), T(0.5)},
                              {T(-0.0), T(-0.0), T(0.5)},
                              {least, least, T(0.5)},
                              {-least, -least, T(0.5)},
                              {Limits::min() / 2, Limits::min() / 2, T(0.5)},
                              {Limits::max(), 1, 1},
                              {inf, 1, 1},
                              {-Limits::max(), -1, 0},
                              {-inf, -1, 0},
                              {Limits::quiet_NaN(), inf - inf, inf - inf}};
  const std::vector<Function<T>> all = functions<T>();
  for (const Special& special : specials) {
    const T wanted[] = {special.tanh, special.sigmoid};
    for (size_t f = 0; f < all.size(); ++f) {
      for (int lane = 0; lane < kLanes; ++lane) {
        T x[kLanes], y[kLanes];
        for (int other = 0; other < kLanes; ++other) x[other] = other == lane ? special.x : T(0.25);
        evaluate(all[f], x, y);
        const T got = y[lane];
        const bool same = got == wanted[f] && std::signbit(got) == std::signbit(wanted[f]);
        expect(same || (std::isnan(wanted[f]) && std::isnan(got)), all[f].name, special.x, got);
        const T ordinary = y[(lane + 1) % kLanes];
        expect(error<T>(all[f], T(0.25), ordinary) <= all[f].ulps, "beside a special value", special.x, ordinary);
      }
    }
  }
}

}  // namespace

}  // namespace fastrnn::test

int main(int count, char** words) {
  const uint64_t seed = count > 1 ? std::strtoull(words[1], nullptr, 10) : 0;
  fastrnn::test::test_accuracy<float>("f32", seed);
  fastrnn::test::test_accuracy<double>("f64", seed);
  fastrnn::test::test_specials<float>();
  fastrnn::test::test_specials<double>();
  return fastrnn::test::failures > 0;
}
