#include "test_gemm.h"

#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "guarded.h"

namespace fastrnn::test {

namespace {

constexpr int64_t kPadding = 3;  // values between two rows (or columns) that belong to nobody

// A matrix in guarded memory, row by row or column by column. What lies between its rows stays poison.
template <class T>
struct Stored {
  Stored(int64_t rows, int64_t columns, bool by_columns)
      : memory((by_columns ? columns : rows) * ((by_columns ? rows : columns) + kPadding)),
        matrix{memory.data(), rows, columns, by_columns ? 1 : columns + kPadding, by_columns ? rows + kPadding : 1} {}

  T& at(int64_t row, int64_t column) const {
    return matrix.data[row * matrix.row_stride + column * matrix.column_stride];
  }
  Matrix<const T> view() const {
    return {matrix.data, matrix.rows, matrix.columns, matrix.row_stride, matrix.column_stride};
  }
  template <class Random>
  void fill(Random& random) const {
    for (int64_t row = 0; row < matrix.rows; ++row) {
      for (int64_t column = 0; column < matrix.columns; ++column) {
        at(row, column) = static_cast<T>(std::uniform_real_distribution<float>(-1, 1)(random));
      }
    }
  }
  bool poison_intact() const {
    std::vector<bool> used(static_cast<size_t>(memory.size()));
    for (int64_t row = 0; row < matrix.rows; ++row) {
      for (int64_t column = 0; column < matrix.columns; ++column) {
        used[static_cast<size_t>(&at(row, column) - matrix.data)] = true;
      }
    }
    const T value = poison<T>();
    for (int64_t i = 0; i < memory.size(); ++i) {
      if (!used[static_cast<size_t>(i)] && !same_bits(memory.data() + i, &value, 1)) return false;
    }
    return memory.margin_intact();
  }

  Guarded<T> memory;
  Matrix<T> matrix;
};

struct GemmCase {
  int64_t rows, columns, depth;
  bool a_by_columns, b_by_columns, out_by_columns, accumulate;

  std::string name() const {
    const auto order = [](bool by_columns) { return by_columns ? "columns" : "rows"; };
    return "GEMM " + std::to_string(rows) + "x" + std::to_string(columns) + "x" + std::to_string(depth) + ", a by " +
           order(a_by_columns) + ", b by " + order(b_by_columns) + ", out by " + order(out_by_columns) +
           (accumulate ? ", added" : "");
  }
};

template <class T, class W>
class GemmTest {
 public:
  GemmTest(const cpu::Kernels& kernels, const GemmCase& gemm, uint64_t seed)
      : kernels_(cpu::dtype_kernels<T, W>(kernels)),
        case_(gemm),
        a_(gemm.rows, gemm.depth, gemm.a_by_columns),
        b_(gemm.depth, gemm.columns, gemm.b_by_columns),
        before_(static_cast<size_t>(gemm.rows * gemm.columns)) {
    std::mt19937_64 random(seed);
    a_.fill(random);
    b_.fill(random);
    for (T& value : before_) value = std::uniform_real_distribution<T>(-1, 1)(random);
  }

  void run(Report& report) const {
    const std::vector<T> one = result({cpu::GemmCode::kPanels, 1, false}, report);
    compare(one, report);
    for (const int threads : {2, 3}) {
      for (const bool by_rows : {false, true}) {
        if (result({cpu::GemmCode::kPanels, threads, by_rows}, report) == one) continue;
        report.fail(case_.name() + ": other bits on " + std::to_string(threads) + " threads");
      }
    }
  }

 private:
  std::vector<T> result(const cpu::GemmPlan& plan, Report& report) const {
    const Stored<T> out(case_.rows, case_.columns, case_.out_by_columns);
    for (int64_t i = 0; case_.accumulate && i < case_.rows * case_.columns; ++i) {
      out.at(i / case_.columns, i % case_.columns) = before_[static_cast<size_t>(i)];
    }
    cpu::PanelGemm<T, W> gemm{out.matrix, a_.view(), b_.view(), case_.accumulate, nullptr};
    const Guarded<T> scratch(plan.threads * kernels_.panel_gemm_scratch(gemm));
    gemm.scratch = scratch.data();
    kernels_.multiply_panels(gemm, plan);
    if (!out.poison_intact() || !scratch.margin_intact()) report.fail(case_.name() + ": wrote where it may not");
    std::vector<T> values;
    for (int64_t i = 0; i < case_.rows * case_.columns; ++i) {
      values.push_back(out.at(i / case_.columns, i % case_.columns));
    }
    return values;
  }

  // Against sums in double, within what adding up `depth` rounded products in order may lose.
  void compare(const std::vector<T>& values, Report& report) const {
    for (int64_t i = 0; i < case_.rows * case_.columns; ++i) {
      double sum = case_.accumulate ? static_cast<double>(before_[static_cast<size_t>(i)]) : 0, size = std::fabs(sum);
      for (int64_t k = 0; k < case_.depth; ++k) {
        const double product = static_cast<double>(a_.at(i / case_.columns, k)) *
                               static_cast<double>(static_cast<T>(b_.at(k, i % case_.columns)));
        sum += product;
        size += std::fabs(product);
      }
      const double bound = static_cast<double>(case_.depth + 1) * std::numeric_limits<T>::epsilon() * size;
      const double error = std::fabs(static_cast<double>(values[static_cast<size_t>(i)]) - sum);
      if (bound > 0) report.note_error(error / bound);
      if (error <= bound) continue;
      report.fail(case_.name() + ": wrong");
      return;
    }
  }

  const cpu::DtypeKernels<T, W>& kernels_;
  const GemmCase case_;
  const Stored<T> a_;
  const Stored<W> b_;
  std::vector<T> before_;
};

// Around the sizes of tiles, panels and blocks, and beyond them.
template <class Random>
int64_t draw(Random& random, const std::vector<int64_t>& sizes) {
  const int64_t size = sizes[std::uniform_int_distribution<size_t>(0, sizes.size() - 1)(random)];
  return std::max<int64_t>(0, size + std::uniform_int_distribution<int64_t>(-1, 1)(random));
}

template <class T, class W>
void test_dtype(const cpu::Kernels& kernels, uint64_t seed, Report& report) {
  std::mt19937_64 random(seed);
  for (int layout = 0; layout < 16; ++layout) {
    const bool b_by_columns = layout & 2 || !std::is_same_v<T, W>;  // weights
    for (int i = 0; i < 4; ++i) {
      const GemmCase gemm{draw(random, {1, 4, 8, 13, 96, 150}),
                          draw(random, {1, 5, 8, 16, 33, 64, 160, 550}),
                          draw(random, {0, 1, 7, 16, 100, 256, 600}),
                          (layout & 1) != 0,
                          b_by_columns,
                          (layout & 4) != 0,
                          (layout & 8) != 0};
      current_call = gemm.name();
      GemmTest<T, W>(kernels, gemm, random()).run(report);
      if (report.enough()) return;
    }
  }
}

}  // namespace

void test_gemm(const cpu::Kernels& kernels, uint64_t seed, Report& report) {
  test_dtype<float, float>(kernels, seed, report);
  test_dtype<double, double>(kernels, seed + 1, report);
  test_dtype<float, cpu::Bf16>(kernels, seed + 2, report);
}

}  // namespace fastrnn::test
