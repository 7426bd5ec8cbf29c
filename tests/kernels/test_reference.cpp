// The reference's gradients against finite differences of its own forward: the reference must itself be right.
#include "test_reference.h"

#include <cmath>
#include <functional>
#include <sstream>

#include "cases.h"

namespace fastrnn::test {

namespace {

double dot(const Values& a, const Values& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    if (!std::isnan(a[i]) && !std::isnan(b[i])) sum += a[i] * b[i];
  }
  return sum;
}

double loss(const Problem& p) {
  const Forward forward = run_forward(p);
  const double c = p.cell == kLstm ? dot(forward.cy, p.grad_cy) : 0;
  return dot(forward.output, p.grad_output) + dot(forward.hy, p.grad_hy) + c;
}

// Compares gradient(i) with the difference quotient of `values`, which belong to `p`.
void compare(const char* name, const Problem& p, Values& values, const std::function<double(int64_t)>& gradient,
             Report& report) {
  constexpr double kStep = 1e-5;
  for (size_t i = 0; i < values.size(); ++i) {
    if (std::isnan(values[i])) continue;
    const double value = values[i];
    values[i] = value + kStep;
    const double above = loss(p);
    values[i] = value - kStep;
    const double below = loss(p);
    values[i] = value;
    const double quotient = (above - below) / (2 * kStep), got = gradient(static_cast<int64_t>(i));
    if (std::fabs(quotient - got) <= 1e-7 * (1 + std::fabs(got))) continue;
    std::ostringstream out;
    out << "reference, cell " << static_cast<int>(p.cell) << (p.projected ? " projected: " : ": ") << name << "[" << i
        << "] changes the loss by " << quotient << ", its gradient is " << got;
    report.fail(out.str());
    return;
  }
}

// The sum over rows that run of product(row).
double over_rows(const Problem& p, const std::function<double(int64_t)>& product) {
  double sum = 0;
  for (int64_t s = 0; s < p.steps; ++s) {
    for (int64_t b = 0; b < p.batch && p.runs(s, b); ++b) sum += product(p.row(s, b));
  }
  return sum;
}

void check_cell(CellKind cell, int64_t projection, Shape shape, Report& report) {
  Problem p = draw_problem({cell, 3, projection, 4, 3, shape, true, true, true, true, false, 7}, &rounded<double>);
  const Forward forward = run_forward(p);
  const Backward backward = run_backward(p, forward);
  const int64_t H = p.hidden, K = p.recurrent, columns = p.saved_values() * H, gate_columns = p.gates() * H;
  // The gradient of W_hh h_{t-1} + b_hh in row n.
  const auto recurrent_grad = [&](int64_t n, int64_t column) {
    return backward.grad_saved[n * columns + p.recurrent_slot(column / H) * H + column % H];
  };
  compare(
      "x", p, p.x, [&](int64_t i) { return backward.grad_saved[i / gate_columns * columns + i % gate_columns]; },
      report);
  compare("hx", p, p.hx, [&](int64_t i) { return backward.grad_hx[i]; }, report);
  if (cell == kLstm) compare("cx", p, p.cx, [&](int64_t i) { return backward.grad_cx[i]; }, report);
  const auto b_hh = [&](int64_t i) { return over_rows(p, [&](int64_t n) { return recurrent_grad(n, i); }); };
  compare("b_hh", p, p.b_hh, b_hh, report);
  const auto w_hh = [&](int64_t i) {
    return over_rows(p, [&](int64_t n) { return recurrent_grad(n, i / K) * forward.h_before[n * K + i % K]; });
  };
  compare("w_hh", p, p.w_hh, w_hh, report);
  const auto w_hr = [&](int64_t i) {
    return over_rows(p,
                     [&](int64_t n) { return backward.grad_projected[n * K + i / H] * forward.hidden[n * H + i % H]; });
  };
  compare("w_hr", p, p.w_hr, w_hr, report);
}

}  // namespace

void test_reference(Report& report) {
  for (Shape shape : {Shape::kDense, Shape::kPacked, Shape::kPadded}) {
    for (CellKind cell : {kRnnTanh, kRnnRelu, kLstm, kGru}) {
      check_cell(cell, 0, shape, report);
    }
    check_cell(kLstm, 2, shape, report);
  }
}

}  // namespace fastrnn::test
