// The elementwise functions of the vectors of one instruction set, that which the compiler's flags name, and of
// scalars: every exponent of f32 and f64 against the next wider type, and the special values.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <random>
#include <string_view>
#include <utility>
#include <vector>

#include "cells/functions.h"
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
  T (*scalar)(T);
  Wide<T> (*exact)(Wide<T>);
  double ulps;   // the bound
  Wide<T> tiny;  // errors up to this do not count
};

// log(1 + e^x)
template <class W>
W exact_log1p_exp(W x) {
  return x > 0 ? x + std::log1p(std::exp(-x)) : std::log1p(std::exp(x));
}

// A function of cells/functions.h, for both value types.
#define BOTH(function) [](Vector<T> x) { return function<Vector<T>>(x); }, [](T x) { return function<T>(x); }

// Where 1 / (1 + e^-x) is not a normal number, the kernels' sigmoid saturates or is 0: no gate's value depends on it.
// Nor do they compute an e^x that is subnormal. tiny bounds the error there.
template <class T>
std::vector<Function<T>> functions() {
  using W = Wide<T>;
  const W least_sigmoid = std::exp(W(sizeof(T) == 4 ? -87 : -708)), least = std::numeric_limits<T>::min();
  return {{"tanh", BOTH(tanh), [](W x) { return std::tanh(x); }, sizeof(T) == 4 ? 6.0 : 2.75, 0},
          {"sigmoid", BOTH(sigmoid), [](W x) { return 1 / (1 + std::exp(-x)); }, 2.75, least_sigmoid},
          {"exp", BOTH(exp), [](W x) { return std::exp(x); }, 1.25, least},
          {"expm1", BOTH(expm1), [](W x) { return std::expm1(x); }, 2.25, 0},
          {"log", BOTH(log), [](W x) { return std::log(x); }, 1.25, 0},
          {"log1p", BOTH(log1p), [](W x) { return std::log1p(x); }, 2, 0},
          {"log1p_exp", BOTH(log1p_exp), exact_log1p_exp<W>, 2, least},
          {"sqrt", BOTH(sqrt), [](W x) { return std::sqrt(x); }, 0.5, 0},
          {"rsqrt", BOTH(rsqrt), [](W x) { return 1 / std::sqrt(x); }, 1.5, 0},
          {"abs", BOTH(abs), [](W x) { return std::fabs(x); }, 0, 0}};
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
  if (std::isinf(static_cast<T>(exact))) return got == static_cast<T>(exact) ? 0 : INFINITY;
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
  // Where e^x overflows, where it becomes subnormal, and where log x is close to 0.
  for (const T edge : {std::log(std::numeric_limits<T>::max()), std::log(std::numeric_limits<T>::min()), T(1)}) {
    for (int i = -1000; i <= 1000; ++i) {
      values.push_back(edge + i * edge * std::numeric_limits<T>::epsilon());
      values.push_back(-values.back());
    }
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
        const T scalar = f.scalar(values[i + lane]);
        expect(error<T>(f, values[i + lane], scalar) <= f.ulps, "scalar", values[i + lane], scalar);
      }
    }
    std::printf("%-6s %s %-9s largest error %.2f ulp of %zu values\n", Isa::kName, type, f.name, largest,
                values.size());
  }
}

// Whether a result is the wanted one, to the sign of a zero. NaN is NaN.
template <class T>
bool same(T got, T wanted) {
  return std::isnan(wanted) ? std::isnan(got) : got == wanted && std::signbit(got) == std::signbit(wanted);
}

// Each special value in every lane, beside ordinary ones, and as a scalar.
template <class T>
void test_specials() {
  constexpr int kLanes = cpu::Simd<Isa, T>::kLanes;
  using Limits = std::numeric_limits<T>;
  const T least = Limits::denorm_min(), inf = Limits::infinity(), nan = Limits::quiet_NaN(), most = Limits::max();
  struct Special {
    const char* function;
    T x, wanted;
  };
  std::vector<Special> specials = {
      {"tanh", inf, 1},       {"tanh", -inf, -1},      {"tanh", most, 1},       {"tanh", -most, -1},
      {"sigmoid", 0, 0.5},    {"sigmoid", inf, 1},     {"sigmoid", most, 1},    {"sigmoid", -inf, 0},
      {"sigmoid", -most, 0},  {"sigmoid", least, 0.5}, {"exp", 0, 1},           {"exp", -T(0), 1},
      {"exp", inf, inf},      {"exp", most, inf},      {"exp", -inf, 0},        {"exp", -most, 0},
      {"exp", least, 1},      {"expm1", inf, inf},     {"expm1", -inf, -1},     {"expm1", most, inf},
      {"expm1", -most, -1},   {"log", 0, -inf},        {"log", -T(0), -inf},    {"log", 1, 0},
      {"log", inf, inf},      {"log", -inf, nan},      {"log", -least, nan},    {"log1p", inf, inf},
      {"log1p", -1, -inf},    {"log1p", -inf, nan},    {"log1p_exp", inf, inf}, {"log1p_exp", most, most},
      {"log1p_exp", -inf, 0}, {"sqrt", 0, 0},          {"sqrt", -T(0), -T(0)},  {"sqrt", inf, inf},
      {"sqrt", -inf, nan},    {"rsqrt", 0, inf},       {"rsqrt", -T(0), -inf},  {"rsqrt", inf, 0},
      {"rsqrt", -least, nan}, {"abs", -T(0), 0},       {"abs", -inf, inf},      {"abs", -least, least}};
  for (const char* function : {"tanh", "expm1", "log1p"}) {
    for (const T x : {T(0), T(-0.0), least, -least, Limits::min() / 2}) specials.push_back({function, x, x});
  }
  for (const Function<T>& f : functions<T>()) {
    specials.push_back({f.name, nan, nan});
    // A payload that fills the mantissa.
    specials.push_back(
        {f.name, sizeof(T) == 4 ? T(__builtin_nanf("0x3fffff")) : T(__builtin_nan("0x7ffffffffffff")), nan});
    for (const Special& special : specials) {
      if (special.function != std::string_view(f.name)) continue;
      const T scalar = f.scalar(special.x);
      expect(same(scalar, special.wanted), f.name, special.x, scalar);
      for (int lane = 0; lane < kLanes; ++lane) {
        T x[kLanes], y[kLanes];
        for (int other = 0; other < kLanes; ++other) x[other] = other == lane ? special.x : T(0.25);
        evaluate(f, x, y);
        expect(same(y[lane], special.wanted), f.name, special.x, y[lane]);
        const T ordinary = y[(lane + 1) % kLanes];
        expect(error<T>(f, T(0.25), ordinary) <= f.ulps, "beside a special value", special.x, ordinary);
      }
    }
  }
}

// A power whose exponent the compiler knows, of vectors and of scalars.
template <class T>
struct Power {
  T exponent;  // as torch rounds it
  Vector<T> (*vector)(Vector<T>);
  T (*scalar)(T);
};

// A product or a square root is rounded a few times; in other powers the logarithm's error grows with the result's
// size.
template <class T>
double power_bound(T exponent, Wide<T> exact) {
  const bool products = std::fabs(exponent) <= T(15.5) && 2 * exponent == std::floor(2 * exponent);
  return products ? 1 + std::fabs(exponent) : 2 + 3 * std::fabs(static_cast<double>(std::log(std::fabs(exact))));
}

template <class T>
void test_power(const char* type, const std::vector<T>& values, const Power<T>& power) {
  using S = cpu::Simd<Isa, T>;
  double largest = 0;
  for (const T x : values) {
    const Wide<T> exact = std::pow(Wide<T>(x), Wide<T>(power.exponent));
    T y[S::kLanes];
    S::store(y, power.vector(S::broadcast(x)));
    for (const T got : {y[0], y[S::kLanes - 1], power.scalar(x)}) {
      if (std::isnan(exact) || std::isinf(exact) || exact == 0) {
        expect(same(std::fabs(got), static_cast<T>(std::fabs(exact))), "power", x, got);
        continue;
      }
      const double ulps = static_cast<double>(std::fabs(got - exact) / spacing<T>(exact));
      expect(ulps <= power_bound<T>(power.exponent, exact), "power", x, got);
      largest = std::fmax(largest, ulps);
    }
  }
  std::printf("%-6s %s power %g: largest error %.2f ulp\n", Isa::kName, type, double(power.exponent), largest);
}

template <class T>
void test_powers(const char* type, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::uniform_real_distribution<T> exponent(-7, 7);  // no power below is beyond what f32 can represent
  std::vector<T> values = {0, -T(0), 1, -1, 2, -2, std::numeric_limits<T>::infinity()};
  for (int i = 0; i < 20000; ++i) {
    values.push_back(std::exp2(exponent(random)));
    values.push_back(-values.back());
  }
  [&]<int... tenths>(std::integer_sequence<int, tenths...>) {
    (test_power<T>(type, values,
                   {T(tenths / 10.0), [](Vector<T> x) { return power<Vector<T>>(x, tenths / 10.0); },
                    [](T x) { return power<T>(x, tenths / 10.0); }}),
     ...);
  }(std::integer_sequence<int, 0, 10, 20, 30, 70, 80, 155, 160, 170, 5, 15, -5, -10, -15, -20, -30, -170, 3, 17,
                          -23>{});
}

// minimum, maximum and select of all pairs of some values.
template <class T>
void test_choices() {
  using S = cpu::Simd<Isa, T>;
  using V = Vector<T>;
  const T inf = std::numeric_limits<T>::infinity(), nan = std::numeric_limits<T>::quiet_NaN();
  const T values[] = {-inf, -1, 0, 0.5, 3, inf, nan};
  for (const T a : values) {
    for (const T b : values) {
      const bool either_nan = std::isnan(a) || std::isnan(b);
      const T least = either_nan ? nan : std::fmin(a, b), greatest = either_nan ? nan : std::fmax(a, b);
      const T chosen = a < b ? a : T(2);
      const V va = S::broadcast(a), vb = S::broadcast(b);
      const V vectors[] = {minimum<V>(va, vb), maximum<V>(va, vb), select<V>(va < vb, va, constant<V>(2))};
      const T scalars[] = {minimum<T>(a, b), maximum<T>(a, b), select<T>(a < b, a, constant<T>(2))};
      const T wanted[] = {least, greatest, chosen};
      for (int i = 0; i < 3; ++i) {
        expect(same(scalars[i], wanted[i]), "a choice", a, scalars[i]);
        for (int lane = 0; lane < S::kLanes; ++lane) {
          expect(same(T(vectors[i][lane]), wanted[i]), "a choice", a, vectors[i][lane]);
        }
      }
    }
  }
}

template <class T>
void test_all(const char* type, uint64_t seed) {
  test_accuracy<T>(type, seed);
  test_specials<T>();
  test_powers<T>(type, seed);
  test_choices<T>();
}

}  // namespace

}  // namespace fastrnn::test

int main(int count, char** words) {
  const uint64_t seed = count > 1 ? std::strtoull(words[1], nullptr, 10) : 0;
  fastrnn::test::test_all<float>("f32", seed);
  fastrnn::test::test_all<double>("f64", seed);
  return fastrnn::test::failures > 0;
}
