// The Lovász hinge of the exact kernel: one class, errors 1 - x (2 t - 1).
#pragma once

#include "cpu/lovasz.h"
#include "cpu/lovasz_order.h"

namespace fastloss::cpu {

// What a row is made of: positives, targets that are neither 0 nor 1, and the range of its words,
// from the smallest positive on: what comes after it changes nothing.
template <typename T>
struct HingeRow {
  int64_t positives = 0, soft = 0;
  Range<T> range;

  void include(const HingeRow& other) {
    positives += other.positives, soft += other.soft;
    range.include(other.range);
  }
};

// The words of a row; an ignored pixel is left out.
template <typename T>
FASTLOSS_SIMD HingeRow<T> hinge_row(const T* __restrict x, const T* __restrict t,
                                    const Label<T>* __restrict label, int64_t count,
                                    Bits<T>* __restrict words) {
  using Signed = std::make_signed_t<Bits<T>>;
  Label<T> positives = 0, soft = 0;
  Signed least = std::numeric_limits<Signed>::max(), most = 0;
#pragma omp simd reduction(+ : positives, soft) reduction(min : least) reduction(max : most)
  for (int64_t j = 0; j < count; ++j) {
    const T error = T(1) - x[j] * (T(2) * t[j] - T(1));
    const bool valid = label[j] >= 0, positive = valid & (t[j] == T(1));
    const Bits<T> all = error_word(error <= T(0) ? T(0) : error, positive);
    const Bits<T> word = valid ? all : Bits<T>(0);
    words[j] = word;
    positives += positive;
    soft += valid & (t[j] != T(0)) & !positive;
    const Signed value = static_cast<Signed>(word >> 1);
    least = positive & (value < least) ? value : least;
    most = value > most ? value : most;
  }
  return {positives, soft, {static_cast<Bits<T>>(least), static_cast<Bits<T>>(most)}};
}

// Both gradients of a row, from the jumps of its pixels and d J / d t.
template <typename T>
FASTLOSS_SIMD void hinge_slopes(const T* __restrict x, const T* __restrict t,
                                const Label<T>* __restrict label, const T* __restrict jump,
                                const T* __restrict of_t, T factor, int64_t count,
                                T* __restrict g_x, T* __restrict g_t) {
#pragma GCC ivdep
  for (int64_t j = 0; j < count; ++j) {
    const T slope_x = factor * jump[j] * (T(1) - T(2) * t[j]);
    const T slope_t = factor * (of_t[j] - T(2) * x[j] * jump[j]);
    g_x[j] = label[j] >= 0 ? slope_x : T(0);
    g_t[j] = label[j] >= 0 ? slope_t : T(0);
  }
}

template <typename T>
class HingeKernel {
 public:
  // `slopes` is a contiguous tensor of T; both gradients are those that are wanted.
  HingeKernel(const LovaszOptions& o, const Planes& x, const PixelTarget& target,
              std::optional<Planes> slopes, std::optional<Planes> g_target)
      : o_(o), x_(x), target_(target), slopes_(std::move(slopes)), g_target_(std::move(g_target)) {}

  std::vector<double> values(const std::vector<double>& grad) const {
    const bool narrow = o_.images(x_) * x_.pixels < (int64_t(1) << 30);
    return narrow ? values_with<uint32_t>(grad) : values_with<uint64_t>(grad);
  }

 private:
  // A group of images and its pixels in a row.
  struct Group {
    int64_t image, count;
    double factor;
  };
  // Targets of a group, and labels that say which are valid.
  struct Targets {
    Workspace<T> t;
    Workspace<Label<T>> label;
    explicit Targets(int64_t count) : t(count), label(count) {}
  };

  template <typename Index>
  std::vector<double> values_with(const std::vector<double>& grad) const {
    const int64_t groups = o_.groups(x_), count = o_.images(x_) * x_.pixels;
    std::vector<double> result(groups);
    torch::stable::parallel_for(0, groups, 1, [&](int64_t first, int64_t last) {
      Order<T, Index> order(count, count, 0);
      for (int64_t g = first; g < last; ++g) {
        const Group group{g * o_.images(x_), count, grad[g]};
        const HingeRow<T> all = read(order, group, nullptr);
        if (!all.soft && !g_target_) {
          result[g] = hard_group(order, group, all);
          continue;
        }
        const Targets targets(count);
        read(order, group, &targets);
        result[g] = soft_group(order, group, targets, all.range.most);
      }
    });
    return result;
  }

  // Makes the words; also keeps the targets if there is room for them.
  template <typename Index>
  HingeRow<T> read(Order<T, Index>& order, const Group& group, const Targets* kept) const {
    HingeRow<T> all;
    for_each_row(o_, x_, group.image, [&](int64_t i, int64_t n, int64_t p, int64_t size) {
      alignas(64) T buffer[kBlock], targets[kBlock];
      alignas(64) Label<T> labels[kBlock];
      T* t = kept ? kept->t.get() + i : targets;
      Label<T>* label = kept ? kept->label.get() + i : labels;
      target_.template values<T>(n, 0, p, size, size, t, label);
      const T* x = x_.row<T>(n, 0, p, size, buffer);
      all.include(hinge_row(x, t, label, size, order.words() + i));
    });
    return all;
  }

  template <typename Index>
  double hard_group(Order<T, Index>& order, const Group& group, const HingeRow<T>& all) const {
    T* g = slopes_ ? slopes_->plane<T>(group.image, 0) : nullptr;
    if (g) std::fill_n(g, group.count, T(0));
    return solve(order, all.range, static_cast<double>(all.positives),
                 [&](int64_t pixel, T error, bool positive, double jump) {
                   const double slope = positive ? -group.factor * jump : group.factor * jump;
                   if (g) g[pixel] = error > T(0) ? static_cast<T>(slope) : T(0);
                 });
  }

  // Any targets: sums of them take the place of counts.
  template <typename Index>
  double soft_group(Order<T, Index>& order, const Group& group, const Targets& targets,
                    Bits<T> most) const {
    struct Place {
      int64_t pixel;
      T error, of_t;  // and d J / d t
    };
    const Workspace<Place> places(group.count);
    int64_t kept = 0;
    order.walk({1, most}, [&](int64_t i, int64_t pixel, T error, bool, int64_t) {
      places[i] = {pixel, error, 0};
      ++kept;
    });
    double after = 0, ratio = 1, value = 0, slope = 0, end = 0;
    for (int64_t i = 0; i < group.count; ++i)
      after += targets.label[i] >= 0 ? static_cast<double>(targets.t[i]) : 0;
    const bool wanted = slopes_ || g_target_;
    const Workspace<T> jumps(wanted ? group.count : 0), of_t(wanted ? group.count : 0);
    if (wanted) std::fill_n(jumps.get(), group.count, T(0));
    for (int64_t i = 0; i < kept; ++i) {
      const auto [pixel, error, _] = places[i];
      const double t = static_cast<double>(targets.t[pixel]), rank = static_cast<double>(i + 1);
      after -= t;
      const double either = rank + after, jump = (t + (1 - t) * ratio) / either;
      value += static_cast<double>(error) * jump;
      ratio = after / either;
      if (!wanted) continue;
      // The value is also sum_i (e_i - e_{i+1}) J_i, and t_j is part of I_i where i < j.
      if (i > 0)
        end += (static_cast<double>(places[i - 1].error) - static_cast<double>(error)) * slope;
      slope = -rank / (either * either);
      jumps[pixel] = error > T(0) ? static_cast<T>(jump) : T(0);
      places[i].of_t = static_cast<T>(end);
    }
    if (!wanted) return value;
    if (kept) end += static_cast<double>(places[kept - 1].error) * slope;
    std::fill_n(of_t.get(), group.count, static_cast<T>(end));
    for (int64_t i = 0; i < kept; ++i) of_t[places[i].pixel] = places[i].of_t;
    write(group, targets, jumps.get(), of_t.get());
    return value;
  }

  void write(const Group& group, const Targets& targets, const T* jumps, const T* of_t) const {
    for_each_row(o_, x_, group.image, [&](int64_t i, int64_t n, int64_t p, int64_t size) {
      alignas(64) T buffer[kBlock], g_x[kBlock], g_t[kBlock];
      const T* x = x_.row<T>(n, 0, p, size, buffer);
      hinge_slopes(x, targets.t.get() + i, targets.label.get() + i, jumps + i, of_t + i,
                   static_cast<T>(group.factor), size, g_x, g_t);
      if (slopes_) slopes_->store(n, p, size, size, g_x);
      if (g_target_) g_target_->store(n, p, size, size, g_t);
    });
  }

  const LovaszOptions& o_;
  const Planes& x_;
  const PixelTarget& target_;
  std::optional<Planes> slopes_, g_target_;
};

}  // namespace fastloss::cpu
