#include "reference.h"

#include <array>
#include <cmath>
#include <cstdlib>

namespace fastrnn::test {

namespace {

using Four = std::array<double, 4>;

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

// One hidden unit after one step.
struct Unit {
  Four saved;
  double h, c;
};

// x: the input's contribution to each gate, with b_ih; r: the recurrent one, with b_hh.
Unit unit_forward(CellKind cell, const Four& x, const Four& r, double h_before, double c_before) {
  switch (cell) {
    case kRnnTanh:
      return {{}, std::tanh(x[0] + r[0]), 0};
    case kRnnRelu:
      return {{}, std::fmax(x[0] + r[0], 0), 0};
    case kLstm: {
      const double i = sigmoid(x[0] + r[0]), f = sigmoid(x[1] + r[1]);
      const double g = std::tanh(x[2] + r[2]), o = sigmoid(x[3] + r[3]);
      const double c = f * c_before + i * g;
      return {{i, f, g, o}, o * std::tanh(c), c};
    }
    case kGru: {
      const double reset = sigmoid(x[0] + r[0]), update = sigmoid(x[1] + r[1]);
      const double n = std::tanh(x[2] + reset * r[2]);
      return {{reset, update, n, r[2]}, (1 - update) * n + update * h_before, 0};
    }
  }
  std::abort();
}

struct UnitGrad {
  Four saved;                 // of the pre-activations
  double h_before, c_before;  // gradients of the previous step's state that bypass w_hh
};

UnitGrad unit_backward(CellKind cell, const Unit& unit, double h_before, double c_before, double dh, double dc) {
  switch (cell) {
    case kRnnTanh:
      return {{dh * (1 - unit.h * unit.h)}, 0, 0};
    case kRnnRelu:
      return {{unit.h > 0 ? dh : 0}, 0, 0};
    case kLstm: {
      const auto [i, f, g, o] = unit.saved;
      const double tanh_c = std::tanh(unit.c);
      const double d_o = dh * tanh_c;
      const double d_c = dc + dh * o * (1 - tanh_c * tanh_c);
      return {
          {d_c * g * i * (1 - i), d_c * c_before * f * (1 - f), d_c * i * (1 - g * g), d_o * o * (1 - o)}, 0, d_c * f};
    }
    case kGru: {
      const auto [reset, update, n, recurrent] = unit.saved;
      const double d_update = dh * (h_before - n);
      const double d_n = dh * (1 - update) * (1 - n * n);
      const double d_reset = d_n * recurrent;
      return {{d_reset * reset * (1 - reset), d_update * update * (1 - update), d_n, d_n * reset}, dh * update, 0};
    }
  }
  std::abort();
}

Values nothing(int64_t rows, int64_t columns) { return Values(static_cast<size_t>(rows * columns), kNothing); }

// One step of one row: from h, c to h, c.
void step_forward(const Problem& p, int64_t n, double* h, double* c, Forward& out) {
  const int64_t H = p.hidden, K = p.recurrent, G = p.gates(), C = p.saved_values();
  for (int64_t k = 0; k < K; ++k) out.h_before[n * K + k] = h[k];
  for (int64_t u = 0; u < H; ++u) {
    Four x{}, r{};
    for (int64_t g = 0; g < G; ++g) {
      const int64_t column = g * H + u;
      x[g] = p.x[n * G * H + column] + (p.b_ih.empty() ? 0 : p.b_ih[column]);
      r[g] = p.b_hh.empty() ? 0 : p.b_hh[column];
      for (int64_t k = 0; k < K; ++k) r[g] += p.w_hh[column * K + k] * out.h_before[n * K + k];
    }
    const double c_before = out.c_before[n * H + u] = c[u];
    const Unit unit = unit_forward(p.cell, x, r, p.projected ? 0 : out.h_before[n * K + u], c_before);
    for (int64_t slot = 0; slot < C; ++slot) out.saved[n * C * H + slot * H + u] = unit.saved[slot];
    out.hidden[n * H + u] = unit.h;
    out.cells[n * H + u] = c[u] = unit.c;
  }
  for (int64_t k = 0; k < K; ++k) {
    h[k] = p.projected ? 0 : out.hidden[n * H + k];
    for (int64_t u = 0; p.projected && u < H; ++u) h[k] += p.w_hr[k * H + u] * out.hidden[n * H + u];
    out.output[n * K + k] = h[k];
  }
}

// One step of one row: from the gradients of h_t, c_t in dh, dc to those of h_{t-1}, c_{t-1}.
void step_backward(const Problem& p, const Forward& forward, int64_t n, double* dh, double* dc, Backward& out) {
  const int64_t H = p.hidden, K = p.recurrent, G = p.gates(), C = p.saved_values();
  for (int64_t k = 0; k < K; ++k) {
    if (!p.grad_output.empty()) dh[k] += p.grad_output[n * K + k];
    out.grad_projected[n * K + k] = dh[k];
    dh[k] = 0;
  }
  for (int64_t u = 0; u < H; ++u) {
    double d_hidden = p.projected ? 0 : out.grad_projected[n * K + u];
    for (int64_t k = 0; p.projected && k < K; ++k) d_hidden += p.w_hr[k * H + u] * out.grad_projected[n * K + k];
    Unit unit{{}, forward.hidden[n * H + u], forward.cells[n * H + u]};
    for (int64_t slot = 0; slot < C; ++slot) {
      unit.saved[slot] = forward.saved[n * C * H + slot * H + u];
    }
    const double h_before = p.projected ? 0 : forward.h_before[n * K + u];
    const UnitGrad grad = unit_backward(p.cell, unit, h_before, forward.c_before[n * H + u], d_hidden, dc[u]);
    for (int64_t slot = 0; slot < C; ++slot) {
      out.grad_saved[n * C * H + slot * H + u] = grad.saved[slot];
    }
    dc[u] = grad.c_before;
    if (!p.projected) dh[u] += grad.h_before;
    for (int64_t g = 0; g < G; ++g) {
      for (int64_t k = 0; k < K; ++k) dh[k] += grad.saved[p.recurrent_slot(g)] * p.w_hh[(g * H + u) * K + k];
    }
  }
}

}  // namespace

int64_t Problem::gates() const { return cell == kLstm ? 4 : cell == kGru ? 3 : 1; }

int64_t Problem::saved_values() const { return cell == kLstm || cell == kGru ? 4 : 1; }

int64_t Problem::recurrent_slot(int64_t gate) const { return cell == kGru && gate == 2 ? 3 : gate; }

Forward run_forward(const Problem& p) {
  const int64_t H = p.hidden, K = p.recurrent;
  Forward out{nothing(p.rows, K),
              p.hx,
              p.cx,
              nothing(p.rows, p.saved_values() * H),
              nothing(p.rows, H),
              nothing(p.rows, H),
              nothing(p.rows, K),
              nothing(p.rows, H)};
  for (int64_t s = 0; s < p.steps; ++s) {
    for (int64_t b = 0; b < p.batch; ++b) {
      if (p.runs(s, b)) step_forward(p, p.row(s, b), &out.hy[b * K], &out.cy[b * H], out);
    }
  }
  return out;
}

Backward run_backward(const Problem& p, const Forward& forward) {
  const int64_t H = p.hidden, K = p.recurrent;
  Backward out{nothing(p.rows, p.saved_values() * H), nothing(p.rows, K), p.grad_hy, p.grad_cy};
  for (int64_t s = p.steps - 1; s >= 0; --s) {
    for (int64_t b = 0; b < p.batch; ++b) {
      if (p.runs(s, b)) step_backward(p, forward, p.row(s, b), &out.grad_hx[b * K], &out.grad_cx[b * H], out);
    }
  }
  return out;
}

}  // namespace fastrnn::test
