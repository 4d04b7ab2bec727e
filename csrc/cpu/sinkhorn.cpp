// CPU kernel of `sinkhorn`, the images of a batch in parallel. Definition and edge rules:
// fastloss/reference/sinkhorn.py.
//
// The potentials are kept in two parts, log u = alpha + log(x) and log v = beta + log(y), and the
// matrix exp(alpha_i + beta_j - cost_ij / reg) once for all rounds, with lanes along i, so that a
// round is one pass over it: the sums of a block of rows, their new x, what they add to the sums of
// the columns. beta starts as the least cost of each column. When a factor or a sum leaves the
// range in which float is exact enough, that update is done from the costs, in double and in
// logarithms, and the matrix is made again from its result, with x = 1, and with y = 1 but for
// columns of little mass, which keep a largest element of 1.
#include <torch/csrc/stable/library.h>

#include <array>

#include "cpu/elementwise.h"
#include "cpu/workspace.h"

namespace fastloss::cpu {
namespace {

constexpr int64_t kRows =
    64;  // of a block, whose part of the matrix stays in the first-level cache
constexpr int64_t kLanes = 16;  // sums of a column
constexpr double kInfinity = std::numeric_limits<double>::infinity();
// Elements of the matrix below kNothing are 0: times factors of ordinary size they stay normal
// numbers (denormal ones cost a hundred cycles), and what is lost with them is below a rounding
// error of the sums while factors are at most kLargest and sums at least kSmallest. Sums of at
// most kGreatest do not overflow, nor is an element in them beyond what exp_ holds.
constexpr double kNothing = -62.4;  // of its logarithm: 2^-90
// Columns of little mass keep their largest element at 1 by a y from exp(kLeast) on, and then all
// above kEnough beside it, whose products with that y are normal numbers too.
template <typename T>
constexpr double kLeast = sizeof(T) == 4 ? -50 : -300;
template <typename T>
constexpr double kEnough = sizeof(T) == 4 ? -35 : -100;
constexpr double kLargest = 0x1p20, kSmallest = 0x1p-40, kGreatest = 0x1p100;

// out_i = exp(alpha_i + beta - cost_i * inverse), 0 where the logarithm is not above `lowest`.
template <typename T>
FASTLOSS_SIMD void kernel_of(const T* __restrict cost, const double* __restrict alpha, double beta,
                             double inverse, T lowest, T* __restrict out) {
#pragma GCC ivdep
  for (int64_t i = 0; i < kRows; ++i) {
    const T x = static_cast<T>((alpha[i] + beta) - static_cast<double>(cost[i]) * inverse);
    const T y = exp_(x);
    out[i] = x > lowest ? y : T(0);
  }
}

// out_i = sum_j matrix_ji y_j
template <typename T>
FASTLOSS_SIMD void sums_of_rows(const T* __restrict matrix, int64_t columns, const T* __restrict y,
                                T* __restrict out) {
  for (int64_t i = 0; i < kRows; ++i) out[i] = 0;
  for (int64_t j = 0; j < columns; ++j) {
    const T* column = matrix + j * kRows;
    for (int64_t i = 0; i < kRows; ++i) out[i] += column[i] * y[j];
  }
}

// x_i = scale_i sum_i^-power, 0 where the scale is. Returns how many are out of range.
template <bool kBalanced, typename T>
FASTLOSS_SIMD T factors_of(const T* __restrict sum, const T* __restrict scale, T power,
                           int64_t count, T* __restrict x) {
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) {
    const T s = max_(sum[i], tiny<T>());
    x[i] = scale[i] * (kBalanced ? T(1) / s : exp_(-power * log_(s)));
  }
  T bad = 0;
#pragma omp simd reduction(+ : bad)
  for (int64_t i = 0; i < count; ++i) {
    const T least = scale[i] == T(0) ? T(0) : T(kSmallest);
    const T vanishing = scale[i] == T(0) ? T(0) : tiny<T>();
    const bool good =
        (sum[i] >= least) & (sum[i] <= T(kGreatest)) & (x[i] >= vanishing) & (x[i] <= T(kLargest));
    bad += good ? T(0) : T(1);
  }
  return bad;
}

// sums_j += sum_i matrix_ji x_i, in kLanes parts.
template <typename T>
FASTLOSS_SIMD void add_to_columns(const T* __restrict matrix, int64_t columns,
                                  const T* __restrict x, T* __restrict sums) {
  for (int64_t j = 0; j < columns; ++j) {
    const T* column = matrix + j * kRows;
#pragma GCC ivdep
    for (int64_t l = 0; l < kLanes; ++l)
      sums[j * kLanes + l] +=
          (column[l] * x[l] + column[kLanes + l] * x[kLanes + l]) +
          (column[2 * kLanes + l] * x[2 * kLanes + l] + column[3 * kLanes + l] * x[3 * kLanes + l]);
  }
}

// plan_i = x_i matrix_i y
template <typename T>
FASTLOSS_SIMD void plan_of(const T* __restrict matrix, const T* __restrict x, T y,
                           T* __restrict out) {
  for (int64_t i = 0; i < kRows; ++i) out[i] = x[i] * matrix[i] * y;
}

struct Options {
  double reg;
  int64_t rounds;
  double power_a, power_b;
  std::optional<double> tol;
};

// log(sum of exp), added one by one, exactly enough for any terms.
class LogSum {
 public:
  void add(double x) {
    if (x == -kInfinity) return;
    if (x > largest_) {
      sum_ = sum_ * std::exp(largest_ - x) + 1;
      largest_ = x;
    } else {
      sum_ += std::exp(x - largest_);
    }
  }
  double value() const { return sum_ > 0 ? largest_ + std::log(sum_) : -kInfinity; }

 private:
  double largest_ = -kInfinity, sum_ = 0;
};

// (mass / sum)^power in logarithms.
double update(double log_mass, double log_sum, double power) {
  return log_mass == -kInfinity || log_sum == -kInfinity ? -kInfinity
                                                         : power * (log_mass - log_sum);
}

// One image: costs (rows, width), masses, results. Works with T, the type of the costs in memory
// that is float or double.
template <typename T>
class Image {
 public:
  Image(const Options& options, int64_t rows, int64_t width)
      : options_(options),
        rows_(rows),
        width_(width),
        padded_((rows + kRows - 1) / kRows * kRows),
        matrix_(padded_ * width),
        tile_(kRows * width),
        log_a_(padded_),
        log_b_(width),
        alpha_(padded_),
        beta_(width),
        previous_(width),
        rest_(width),
        x_(padded_),
        y_(width),
        scale_x_(padded_),
        scale_y_(width),
        sum_(kRows),
        sums_(kLanes * width),
        total_(width) {}

  // False if the masses or the costs are not what they may be.
  bool load(const T* cost, const T* a, const T* b) {
    cost_ = cost;
    used_.clear();
    for (int64_t i = 0; i < padded_; ++i)
      log_a_[i] = i < rows_ ? std::log(double(a[i])) : -kInfinity;
    for (int64_t i = 0; i < rows_; ++i)
      if (!(a[i] >= 0 && a[i] < kInfinity)) return false;
    for (int64_t j = 0; j < width_; ++j) {
      if (!(b[j] >= 0 && b[j] < kInfinity)) return false;
      if (b[j] > 0) used_.push_back(j);
    }
    columns_ = used_.size();
    for (int64_t t = 0; t < columns_; ++t) {
      log_b_[t] = std::log(double(b[used_[t]]));
      beta_[t] = kInfinity;
    }
    for (int64_t i = 0; i < rows_; ++i) {
      if (log_a_[i] == -kInfinity) continue;
      const T* row = cost_ + i * width_;
      for (int64_t t = 0; t < columns_; ++t) {
        const double c = row[used_[t]];
        if (!(c > -kInfinity)) return false;
        beta_[t] = std::min(beta_[t], c);
      }
    }
    return true;
  }

  void solve() {
    const int64_t n = columns_;
    fell_back_ = false;
    for (int64_t i = 0; i < padded_; ++i) alpha_[i] = log_a_[i] == -kInfinity ? -kInfinity : 0;
    for (int64_t t = 0; t < n; ++t)
      beta_[t] = beta_[t] == kInfinity ? -kInfinity : beta_[t] / options_.reg;
    std::fill_n(rest_.get(), n, 0.0);
    absorb();
    // v of u = 1
    clear_sums();
    for (int64_t i = 0; i < padded_; i += kRows) add(i);
    update_columns();
    for (int64_t round = 0; round < options_.rounds; ++round) {
      for (int64_t t = 0; options_.tol && t < n; ++t) previous_[t] = log_v(t);
      update_rows();
      update_columns();
      if (options_.tol && is_still()) break;
    }
    if (fell_back_) settle();
  }

  // Writes the plan (rows, width) and the potentials.
  void store(T* plan, T* f, T* g) const {
    T line[kRows];
    std::fill_n(plan, rows_ * width_, T(0));
    for (int64_t i = 0; i < padded_; i += kRows) {
      const int64_t count = std::min(kRows, rows_ - i);
      for (int64_t t = 0; t < columns_; ++t) {
        plan_of(block(i) + t * kRows, x_.get() + i, y_[t], line);
        T* out = plan + i * width_ + used_[t];
        for (int64_t k = 0; k < count; ++k) out[k * width_] = line[k];
      }
    }
    for (int64_t i = 0; i < rows_; ++i) f[i] = static_cast<T>(options_.reg * log_u(i));
    std::fill_n(g, width_, -std::numeric_limits<T>::infinity());
    for (int64_t t = 0; t < columns_; ++t) g[used_[t]] = static_cast<T>(options_.reg * log_v(t));
  }

 private:
  // The part of the matrix with rows i to i + kRows, column by column.
  T* block(int64_t i) const { return matrix_.get() + i * columns_; }
  double log_u(int64_t i) const { return alpha_[i] + std::log(double(x_[i])); }
  double log_v(int64_t t) const { return beta_[t] + std::log(double(y_[t])); }

  // The matrix of the potentials alpha and beta, 0 below lowest(t), and x = y = 1.
  template <typename Lowest>
  void tabulate(const Lowest& lowest) {
    const double inverse = 1 / options_.reg;
    for (int64_t i = 0; i < padded_; i += kRows) {
      const int64_t count = std::min(kRows, rows_ - i);
      for (int64_t k = 0; k < kRows; ++k)
        for (int64_t t = 0; t < columns_; ++t)
          tile_[t * kRows + k] = k < count ? cost_[(i + k) * width_ + used_[t]] : T(0);
      for (int64_t t = 0; t < columns_; ++t)
        kernel_of(tile_.get() + t * kRows, alpha_.get() + i, beta_[t], inverse, T(lowest(t)),
                  block(i) + t * kRows);
    }
    std::fill_n(x_.get(), padded_, T(1));
    std::fill_n(y_.get(), columns_, T(1));
  }
  // The matrix for the rounds to come, and the scales that go with alpha and beta.
  void absorb() {
    constexpr double nothing = sizeof(T) == 4 ? kNothing : -700;
    tabulate([&](int64_t t) { return std::min(nothing - rest_[t], kEnough<T>); });
    for (int64_t t = 0; t < columns_; ++t) y_[t] = static_cast<T>(std::exp(rest_[t]));
    const double pa = options_.power_a, pb = options_.power_b;
    for (int64_t i = 0; i < padded_; ++i) scale_x_[i] = scale(alpha_[i], log_a_[i], pa);
    for (int64_t t = 0; t < columns_; ++t) scale_y_[t] = scale(beta_[t], log_b_[t], pb);
  }
  // The same for potentials found in logarithms: what a column lacks to 1 goes from beta to y.
  void absorb_logarithms() {
    std::fill_n(rest_.get(), columns_, -kInfinity);
    for (int64_t i = 0; i < rows_; ++i)
      for (int64_t t = 0; alpha_[i] > -kInfinity && t < columns_; ++t)
        rest_[t] =
            std::max(rest_[t], alpha_[i] + beta_[t] - cost_[i * width_ + used_[t]] / options_.reg);
    for (int64_t t = 0; t < columns_; ++t) {
      rest_[t] = rest_[t] > -kInfinity ? std::clamp(rest_[t], kLeast<T>, 0.0) : 0;
      beta_[t] -= rest_[t];
    }
    absorb();
  }
  // The matrix of the last potentials: the plan itself. One that was made of potentials with the
  // masses in them lacks elements that are small beside 1, and not beside the masses.
  void settle() {
    for (int64_t i = 0; i < rows_; ++i) alpha_[i] = log_u(i);
    for (int64_t t = 0; t < columns_; ++t) beta_[t] = log_v(t);
    tabulate([](int64_t) { return std::log(double(tiny<T>())); });
  }
  // What sum^-power is multiplied by: exp(power log mass - (1 - power) shift), or out of range.
  static T scale(double shift, double log_mass, double power) {
    if (shift == -kInfinity) return 0;
    const double value = std::exp(power * log_mass - (1 - power) * shift);
    return value > tiny<T>() && value < 0x1p80 ? static_cast<T>(value)
                                               : std::numeric_limits<T>::infinity();
  }

  void clear_sums() { std::fill_n(sums_.get(), kLanes * columns_, T(0)); }
  void add(int64_t i) { add_to_columns(block(i), columns_, x_.get() + i, sums_.get()); }

  // u from v, and the sums of the columns.
  void update_rows() {
    clear_sums();
    for (int64_t i = 0; i < padded_; i += kRows) {
      sums_of_rows(block(i), columns_, y_.get(), sum_.get());
      const T bad =
          options_.power_a == 1
              ? factors_of<true>(sum_.get(), scale_x_.get() + i, T(1), kRows, x_.get() + i)
              : factors_of<false>(sum_.get(), scale_x_.get() + i, T(options_.power_a), kRows,
                                  x_.get() + i);
      if (bad > 0) return update_rows_in_logarithms();
      add(i);
    }
  }
  void update_rows_in_logarithms() {
    fell_back_ = true;
    for (int64_t t = 0; t < columns_; ++t) beta_[t] = log_v(t);
    for (int64_t i = 0; i < rows_; ++i) {
      LogSum sum;
      for (int64_t t = 0; t < columns_; ++t)
        sum.add(beta_[t] - cost_[i * width_ + used_[t]] / options_.reg);
      alpha_[i] = update(log_a_[i], sum.value(), options_.power_a);
    }
    absorb_logarithms();
    clear_sums();
    for (int64_t i = 0; i < padded_; i += kRows) add(i);
  }

  // v from the sums of the columns.
  void update_columns() {
    for (int64_t t = 0; t < columns_; ++t) {
      T total = 0;
      for (int64_t l = 0; l < kLanes; ++l) total += sums_[t * kLanes + l];
      total_[t] = total;
    }
    const T bad = options_.power_b == 1
                      ? factors_of<true>(total_.get(), scale_y_.get(), T(1), columns_, y_.get())
                      : factors_of<false>(total_.get(), scale_y_.get(), T(options_.power_b),
                                          columns_, y_.get());
    if (bad == 0) return;
    fell_back_ = true;
    for (int64_t i = 0; i < rows_; ++i) alpha_[i] = log_u(i);
    std::vector<LogSum> sums(columns_);
    for (int64_t i = 0; i < rows_; ++i)
      for (int64_t t = 0; alpha_[i] > -kInfinity && t < columns_; ++t)
        sums[t].add(alpha_[i] - cost_[i * width_ + used_[t]] / options_.reg);
    for (int64_t t = 0; t < columns_; ++t)
      beta_[t] = update(log_b_[t], sums[t].value(), options_.power_b);
    absorb_logarithms();
  }

  bool is_still() const {
    bool still = true;
    for (int64_t t = 0; t < columns_; ++t) {
      const double now = log_v(t);
      still &= now == previous_[t] || std::abs(now - previous_[t]) <= *options_.tol;
    }
    return still;
  }

  Options options_;
  int64_t rows_, width_, padded_, columns_ = 0;
  bool fell_back_ = false;  // on logarithms, in this image
  const T* cost_ = nullptr;
  std::vector<int64_t> used_;  // the columns that have mass
  Workspace<T> matrix_, tile_;
  Workspace<double> log_a_, log_b_, alpha_, beta_, previous_, rest_;
  Workspace<T> x_, y_, scale_x_, scale_y_, sum_, sums_, total_;
};

template <typename T>
void run(const Tensor& cost, const Tensor& a, const Tensor& b, const Options& options,
         const std::array<Tensor, 3>& results) {
  const int64_t rows = cost.size(1), columns = cost.size(2);
  const Source<T> costs(cost), masses_a(a), masses_b(b);
  const Sink plans(results[0]), fs(results[1]), gs(results[2]);
  torch::stable::parallel_for(0, cost.size(0), 1, [&](int64_t first, int64_t last) {
    Image<T> image(options, rows, columns);
    const bool convert = cost.scalar_type() != scalar_type_of<T>();
    Workspace<T> buffer(convert ? 2 * rows * columns : 0), line(4 * std::max(rows, columns));
    T* out = buffer.get() + (convert ? rows * columns : 0);
    const int64_t width = std::max(rows, columns);
    for (int64_t n = first; n < last; ++n) {
      const T* c = costs.load(n * rows * columns, rows * columns, buffer.get());
      const T* mass_a = masses_a.load(n * rows, rows, line.get());
      const T* mass_b = masses_b.load(n * columns, columns, line.get() + width);
      T* plan = plans.target(n * rows * columns, out);
      T* f = fs.target(n * rows, line.get() + 2 * width);
      T* g = gs.target(n * columns, line.get() + 3 * width);
      if (image.load(c, mass_a, mass_b)) {
        image.solve();
        image.store(plan, f, g);
      } else {
        std::fill_n(plan, rows * columns, T(NAN));
        std::fill_n(f, rows, T(NAN));
        std::fill_n(g, columns, T(NAN));
      }
      plans.store(n * rows * columns, rows * columns, plan);
      fs.store(n * rows, rows, f);
      gs.store(n * columns, columns, g);
    }
  });
}

std::tuple<Tensor, Tensor, Tensor> sinkhorn(Tensor cost, Tensor a, Tensor b, double reg,
                                            int64_t num_iter, std::optional<double> tau_a,
                                            std::optional<double> tau_b,
                                            std::optional<double> tol) {
  const std::array<Tensor, 3> results{
      torch::stable::new_empty(cost, {cost.size(0), cost.size(1), cost.size(2)}),
      torch::stable::new_empty(cost, {cost.size(0), cost.size(1)}),
      torch::stable::new_empty(cost, {cost.size(0), cost.size(2)})};
  const auto power = [&](std::optional<double> tau) { return tau ? *tau / (*tau + reg) : 1.0; };
  const Options options{reg, num_iter, power(tau_a), power(tau_b), tol};
  if (cost.scalar_type() == ScalarType::Double)
    run<double>(cost, a, b, options, results);
  else
    run<float>(cost, a, b, options, results);
  return {results[0], results[1], results[2]};
}

STABLE_TORCH_LIBRARY_IMPL(fastloss, CPU, m) { m.impl("sinkhorn", TORCH_BOX(&sinkhorn)); }

}  // namespace
}  // namespace fastloss::cpu
