#include "cases.h"

#include <algorithm>
#include <cmath>
#include <sstream>

namespace fastrnn::test {

namespace {

using Random = std::mt19937_64;

int64_t draw_below(Random& random, int64_t bound) {
  return static_cast<int64_t>(random() % static_cast<uint64_t>(bound));
}

Values draw(Random& random, int64_t count, double scale, Rounding round) {
  std::uniform_real_distribution<double> uniform(-scale, scale);
  Values values(static_cast<size_t>(count));
  for (double& value : values) value = round(uniform(random));
  return values;
}

Values draw_multiples(Random& random, int64_t count, double of, int64_t most) {
  Values values(static_cast<size_t>(count));
  for (double& value : values) value = static_cast<double>(draw_below(random, 2 * most + 1) - most) * of;
  return values;
}

// a (rows, depth) times the transpose of b (columns, depth).
Values product(const Values& a, const Values& b, int64_t rows, int64_t columns, int64_t depth) {
  Values out(static_cast<size_t>(rows * columns));
  for (int64_t i = 0; i < rows * columns; ++i) {
    for (int64_t k = 0; k < depth; ++k) out[i] += a[i / columns * depth + k] * b[i % columns * depth + k];
  }
  return out;
}

// Rows that run at each time, non-increasing. Some rows may never run, and the last times may be idle.
std::vector<int64_t> draw_sizes(Random& random, const Case& drawn) {
  std::vector<int64_t> sizes;
  for (int64_t t = 0; t < drawn.steps; ++t) sizes.push_back(draw_below(random, drawn.batch + 1));
  std::sort(sizes.begin(), sizes.end(), std::greater<>());
  if (drawn.steps > 0 && draw_below(random, 2)) sizes[0] = drawn.batch;
  return sizes;
}

// Erases the values of rows that do not run.
void erase_idle_rows(const Problem& p, int64_t columns, Values& values) {
  std::vector<bool> runs(static_cast<size_t>(p.rows));
  for (int64_t s = 0; s < p.steps; ++s) {
    for (int64_t b = 0; b < p.batch && p.runs(s, b); ++b) runs[p.row(s, b)] = true;
  }
  for (size_t i = 0; i < values.size(); ++i) {
    if (!runs[i / static_cast<size_t>(columns)]) values[i] = kNothing;
  }
}

Case draw_options(Case drawn, Random& random) {
  drawn.reverse = draw_below(random, 2);
  drawn.keep = draw_below(random, 2);
  drawn.biases = draw_below(random, 4);
  drawn.grad_output = draw_below(random, 4);
  drawn.second_direction = draw_below(random, 2);
  drawn.seed = random();
  return drawn;
}

}  // namespace

std::string Case::name() const {
  const char* cells[] = {"rnn_tanh", "rnn_relu", "lstm", "gru"};
  const char* shapes[] = {"dense", "packed", "padded", "device_sizes"};
  std::ostringstream out;
  out << cells[static_cast<int>(cell)] << " H=" << hidden;
  if (projection) out << " P=" << projection;
  out << " B=" << batch << " T=" << steps << " " << shapes[static_cast<int>(shape)] << (reverse ? " reverse" : "")
      << (keep ? " keep" : "") << (biases ? " biases" : "") << (grad_output ? " grad_output" : "")
      << (second_direction ? " second_direction" : "") << " seed=" << seed;
  return out.str();
}

std::vector<Case> all_cases(const Coverage& coverage, uint64_t seed) {
  Random random(seed);
  std::vector<Case> cases;
  const auto add = [&](int64_t hidden, int64_t batch, int64_t steps, Shape shape) {
    for (CellKind cell : {kRnnTanh, kRnnRelu, kLstm, kGru}) {
      cases.push_back(draw_options({cell, hidden, 0, batch, steps, shape, {}, {}, {}, {}, {}, {}}, random));
    }
    if (!coverage.projections) return;
    const int64_t projections[] = {1, (hidden + 1) / 2, hidden - 1};
    const int64_t projection = std::max<int64_t>(projections[draw_below(random, 3)], 1);
    cases.push_back(draw_options({kLstm, hidden, projection, batch, steps, shape, {}, {}, {}, {}, {}, {}}, random));
  };
  for (Shape shape : coverage.shapes) {
    for (int64_t hidden : coverage.hidden) {
      for (int64_t batch : coverage.batches) {
        for (int64_t steps : coverage.steps) add(hidden, batch, steps, shape);
      }
    }
    if (!coverage.empty) continue;
    add(5, 3, 0, shape);
    add(5, 0, 3, shape);
  }
  return cases;
}

Problem draw_problem(const Case& drawn, Rounding round) {
  Random random(drawn.seed);
  Problem p{};
  p.cell = drawn.cell;
  p.steps = drawn.steps;
  p.batch = drawn.batch;
  p.hidden = drawn.hidden;
  p.projected = drawn.projection > 0;
  p.recurrent = p.projected ? drawn.projection : drawn.hidden;
  p.reverse = drawn.reverse;
  p.sizes = drawn.shape == Shape::kDense ? std::vector<int64_t>(static_cast<size_t>(p.steps), p.batch)
                                         : draw_sizes(random, drawn);
  int64_t packed_rows = 0;
  for (int64_t t = 0; t < p.steps; ++t) {
    p.offsets.push_back(drawn.shape == Shape::kPacked ? packed_rows : t * p.batch);
    packed_rows += p.sizes[t];
  }
  p.rows = drawn.shape == Shape::kPacked ? packed_rows : p.steps * p.batch;

  const int64_t H = p.hidden, K = p.recurrent, columns = p.gates() * H;
  p.input_size = draw_below(random, 20);
  p.input = draw_multiples(random, p.rows * p.input_size, 0.5, 2);
  p.w_ih = draw_multiples(random, columns * p.input_size, 0.125, 4);
  // Sums of so few bits are exact in every type.
  p.x = product(p.input, p.w_ih, p.rows, columns, p.input_size);
  p.w_hh = draw(random, columns * K, 1.5 / std::sqrt(K), round);
  if (p.projected) p.w_hr = draw(random, K * H, 1.5 / std::sqrt(H), round);
  if (drawn.biases) {
    p.b_ih = draw(random, columns, 1, round);
    p.b_hh = draw(random, columns, 1, round);
  }
  p.hx = draw(random, p.batch * K, 1, round);
  p.cx = draw(random, p.batch * H, 2, round);
  if (drawn.grad_output) p.grad_output = draw(random, p.rows * K, 1, round);
  p.grad_hy = draw(random, p.batch * K, 1, round);
  p.grad_cy = draw(random, p.batch * H, 1, round);
  erase_idle_rows(p, p.input_size, p.input);
  erase_idle_rows(p, columns, p.x);
  erase_idle_rows(p, K, p.grad_output);
  return p;
}

}  // namespace fastrnn::test
