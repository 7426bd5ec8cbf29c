#include "cases.h"

#include <algorithm>
#include <cmath>
#include <sstream>

namespace fastrnn::test {

namespace {

// Around the vectors' lanes (2 to 16), the panels' units (up to four vectors) and the tiles' rows (up to 8).
constexpr int64_t kHiddenSizes[] = {1, 3, 7, 8, 15, 16, 17, 33, 64, 65};
constexpr int64_t kBatches[] = {1, 2, 5, 6, 7, 13};
constexpr int64_t kSteps[] = {1, 2, 5};

using Random = std::mt19937_64;

int64_t draw_below(Random& random, int64_t bound) {
  return static_cast<int64_t>(random() % static_cast<uint64_t>(bound));
}

template <class T>
Values draw(Random& random, int64_t count, double scale) {
  std::uniform_real_distribution<double> uniform(-scale, scale);
  Values values(static_cast<size_t>(count));
  for (double& value : values) value = static_cast<T>(uniform(random));
  return values;
}

// Rows that run at each time: never more than the time before. Some rows may never run, and the last times may be idle.
std::vector<int64_t> draw_sizes(Random& random, const Case& drawn) {
  std::vector<int64_t> sizes;
  for (int64_t t = 0; t < drawn.steps; ++t) sizes.push_back(draw_below(random, drawn.batch + 1));
  std::sort(sizes.begin(), sizes.end(), std::greater<>());
  if (drawn.steps > 0 && draw_below(random, 2)) sizes[0] = drawn.batch;
  return sizes;
}

// What belongs to rows that do not run.
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
  const char* shapes[] = {"dense", "packed", "padded"};
  std::ostringstream out;
  out << cells[static_cast<int>(cell)] << " H=" << hidden;
  if (projection) out << " P=" << projection;
  out << " B=" << batch << " T=" << steps << " " << shapes[static_cast<int>(shape)] << (reverse ? " reverse" : "")
      << (keep ? " keep" : "") << (biases ? " biases" : "") << (grad_output ? " grad_output" : "")
      << (second_direction ? " second_direction" : "") << " seed=" << seed;
  return out.str();
}

std::vector<Case> all_cases(uint64_t seed) {
  Random random(seed);
  std::vector<Case> cases;
  const auto add = [&](int64_t hidden, int64_t batch, int64_t steps, Shape shape) {
    for (CellKind cell : {CellKind::kRnnTanh, CellKind::kRnnRelu, CellKind::kLstm, CellKind::kGru}) {
      cases.push_back(draw_options({cell, hidden, 0, batch, steps, shape, {}, {}, {}, {}, {}, {}}, random));
    }
    const int64_t projections[] = {1, (hidden + 1) / 2, hidden - 1};
    const int64_t projection = std::max<int64_t>(projections[draw_below(random, 3)], 1);
    cases.push_back(
        draw_options({CellKind::kLstm, hidden, projection, batch, steps, shape, {}, {}, {}, {}, {}, {}}, random));
  };
  for (Shape shape : {Shape::kDense, Shape::kPacked, Shape::kPadded}) {
    for (int64_t hidden : kHiddenSizes) {
      for (int64_t batch : kBatches) {
        for (int64_t steps : kSteps) add(hidden, batch, steps, shape);
      }
    }
    add(5, 3, 0, shape);
    add(5, 0, 3, shape);
  }
  return cases;
}

template <class T>
Problem draw_problem(const Case& drawn) {
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
  p.x = draw<T>(random, p.rows * columns, 2);
  p.w_hh = draw<T>(random, columns * K, 1.5 / std::sqrt(K));
  if (p.projected) p.w_hr = draw<T>(random, K * H, 1.5 / std::sqrt(H));
  if (drawn.biases) {
    p.b_ih = draw<T>(random, columns, 1);
    p.b_hh = draw<T>(random, columns, 1);
  }
  p.hx = draw<T>(random, p.batch * K, 1);
  p.cx = draw<T>(random, p.batch * H, 2);
  if (drawn.grad_output) p.grad_output = draw<T>(random, p.rows * K, 1);
  p.grad_hy = draw<T>(random, p.batch * K, 1);
  p.grad_cy = draw<T>(random, p.batch * H, 1);
  erase_idle_rows(p, columns, p.x);
  erase_idle_rows(p, K, p.grad_output);
  return p;
}

template Problem draw_problem<float>(const Case&);
template Problem draw_problem<double>(const Case&);

}  // namespace fastrnn::test
