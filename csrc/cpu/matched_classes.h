// Class losses of a tile of `matched_detection`, from the mass h of each class and, for the focal
// loss, the mass o that lies elsewhere: sum_c h_c l_c + o_c n_c. Logits, masses and gradients are
// (classes, kTile).
#pragma once

#include "common/focal.h"
#include "cpu/matched_detection.h"

namespace fastloss::cpu {

// out += sum_c h_c l_c of the losses of a softmax; -ln p = (peak - x) + ln sum keeps the logarithm
// where logits are large.
template <bool kLog, typename T>
FASTLOSS_SIMD void softmax_values(const T* __restrict x, const T* __restrict exponentials,
                                  int64_t classes, const Softmax<kTile, T>& softmax,
                                  const T* __restrict h, T* __restrict out) {
  alignas(64) T log_sum[kTile];
  for (int64_t l = 0; kLog && l < kTile; ++l) log_sum[l] = log_(softmax.sum[l]);
  for (int64_t c = 0; c < classes; ++c)
#pragma GCC ivdep
    for (int64_t l = 0; l < kTile; ++l) {
      const int64_t i = c * kTile + l;
      const T loss =
          kLog ? (softmax.peak[l] - x[i]) + log_sum[l] : -(exponentials[i] * softmax.inverse[l]);
      out[l] += times(h[i], loss);
    }
}

// out = d (sum_c h_c l_c) / dx
template <bool kLog, typename T>
FASTLOSS_SIMD void softmax_gradients(const T* __restrict exponentials, int64_t classes,
                                     const Softmax<kTile, T>& softmax, const T* __restrict h,
                                     T* __restrict out) {
  alignas(64) T total[kTile] = {};  // sum h_c, times p_c for l = -p
  for (int64_t c = 0; c < classes; ++c)
#pragma GCC ivdep
    for (int64_t l = 0; l < kTile; ++l) {
      const int64_t i = c * kTile + l;
      total[l] += kLog ? h[i] : h[i] * (exponentials[i] * softmax.inverse[l]);
    }
  for (int64_t c = 0; c < classes; ++c)
#pragma GCC ivdep
    for (int64_t l = 0; l < kTile; ++l) {
      const int64_t i = c * kTile + l;
      const T p = exponentials[i] * softmax.inverse[l];
      out[i] = kLog ? p * total[l] - h[i] : p * (total[l] - h[i]);
    }
}

// The losses l (right) and n (wrong) of a class, and their derivatives, from a logit.
template <typename Power, typename T>
struct FocalClass {
  T a, b, gamma;

  FocalClass(double alpha, double gamma)
      : a(static_cast<T>(alpha < 0 ? 1 : alpha)),
        b(static_cast<T>(alpha < 0 ? 1 : 1 - alpha)),
        gamma(static_cast<T>(gamma)) {}

  static FASTLOSS_FN T nll(const Logit<T>& x) { return max_(-x.x, T(0)) + x.softplus_tail; }
  static FASTLOSS_FN T nll_wrong(const Logit<T>& x) { return max_(x.x, T(0)) + x.softplus_tail; }

  FASTLOSS_FN T right(const Logit<T>& x) const { return a * Power::value(x.q, gamma) * nll(x); }
  FASTLOSS_FN T wrong(const Logit<T>& x) const {
    return b * Power::value(x.p, gamma) * nll_wrong(x);
  }
  // Far from 0 the probability beside a logarithm is nothing, which the logarithm must not undo.
  static FASTLOSS_FN T bounded(T nll) { return min_(T(1024), nll); }  // keeps NaN

  FASTLOSS_FN T right_slope(const Logit<T>& x) const {
    return -a * Power::value(x.q, gamma) * (gamma * x.p * bounded(nll(x)) + x.q);
  }
  FASTLOSS_FN T wrong_slope(const Logit<T>& x) const {
    return b * Power::value(x.p, gamma) * (gamma * x.q * bounded(nll_wrong(x)) + x.p);
  }
};

// o_c = sum of h over the other classes, one of which is "no class". Nothing cancels.
template <typename T>
FASTLOSS_SIMD void masses_elsewhere(const T* __restrict h, int64_t classes, T* __restrict o) {
  alignas(64) T before[kTile] = {}, after[kTile];
  for (int64_t l = 0; l < kTile; ++l) after[l] = h[classes * kTile + l];
  for (int64_t c = classes - 1; c >= 0; --c)
    for (int64_t l = 0; l < kTile; ++l) {
      o[c * kTile + l] = after[l];
      after[l] += h[c * kTile + l];
    }
  for (int64_t c = 0; c < classes; ++c)
    for (int64_t l = 0; l < kTile; ++l) {
      o[c * kTile + l] += before[l];
      before[l] += h[c * kTile + l];
    }
}

// out += sum_c h_c l_c + o_c n_c (without targets there are none), wrong += sum_c n_c
template <bool kTargets, typename Power, typename T>
FASTLOSS_SIMD void focal_values(const T* __restrict x, int64_t classes, FocalClass<Power, T> focal,
                                const T* __restrict h, const T* __restrict o, T* __restrict out,
                                T* __restrict wrong) {
  for (int64_t c = 0; c < classes; ++c)
#pragma GCC ivdep
    for (int64_t l = 0; l < kTile; ++l) {
      const int64_t i = c * kTile + l;
      const Logit<T> logit(x[i]);
      const T n = focal.wrong(logit);
      wrong[l] += n;
      if constexpr (kTargets) out[l] += times(h[i], focal.right(logit)) + times(o[i], n);
    }
}

// out = d (sum_c g h_c l_c + (g o_c + background) n_c) / dx
template <bool kTargets, typename Power, typename T>
FASTLOSS_SIMD void focal_gradients(const T* __restrict x, int64_t classes,
                                   FocalClass<Power, T> focal, const T* __restrict g,
                                   const T* __restrict h, const T* __restrict o,
                                   const T* __restrict background, T* __restrict out) {
  for (int64_t c = 0; c < classes; ++c)
#pragma GCC ivdep
    for (int64_t l = 0; l < kTile; ++l) {
      const int64_t i = c * kTile + l;
      const Logit<T> logit(x[i]);
      if constexpr (kTargets)
        out[i] = g[l] * h[i] * focal.right_slope(logit) +
                 (g[l] * o[i] + background[l]) * focal.wrong_slope(logit);
      else
        out[i] = background[l] * focal.wrong_slope(logit);
    }
}

// h_c = g h_c
template <typename T>
FASTLOSS_SIMD void multiply_lanes(const T* __restrict g, int64_t classes, T* __restrict h) {
  for (int64_t c = 0; c < classes; ++c)
#pragma GCC ivdep
    for (int64_t l = 0; l < kTile; ++l) h[c * kTile + l] *= g[l];
}

struct ClassOptions {
  std::string loss;
  int64_t classes, background;
  double alpha, gamma;

  bool focal() const { return loss == "sigmoid_focal"; }
};

// The masses h of a tile, (classes + 1, kTile), and what is computed from them and the logits.
template <typename T>
struct ClassRoom {
  std::vector<T> x, work, h, o;
  Softmax<kTile, T> softmax;

  explicit ClassRoom(const ClassOptions& options)
      : x(options.classes * kTile),
        work(options.classes * kTile),
        h((options.classes + 1) * kTile),
        o(options.focal() ? options.classes * kTile : 0) {}
};

template <typename T>
class ClassLosses {
 public:
  ClassLosses(const ClassOptions& options, T background_weight)
      : o_(options), background_weight_(background_weight) {}

  // Mass at the background, weighted.
  T of_background(T mass) const { return times(mass, background_weight_); }

  // The losses of targets, from room.x and room.h if there are any, and of the background.
  void values(ClassRoom<T>& room, bool has_targets, const T* background, T* out,
              T* out_background) const {
    std::fill_n(out, kTile, T(0));
    if (o_.focal()) {
      alignas(64) T wrong[kTile] = {};
      o_.gamma == 2 ? focal<Square>(room, has_targets, out, wrong)
                    : focal<General>(room, has_targets, out, wrong);
      for (int64_t l = 0; l < kTile; ++l) out_background[l] = times(background[l], wrong[l]);
      return;
    }
    softmax_of<kTile>(room.x.data(), kTile, o_.classes, room.work.data(), &room.softmax);
    const auto run = is_log() ? &softmax_values<true, T> : &softmax_values<false, T>;
    if (has_targets)
      run(room.x.data(), room.work.data(), o_.classes, room.softmax, room.h.data(), out);
    const int64_t own = o_.background * kTile;
    std::fill_n(out_background, kTile, T(0));
    run(room.x.data() + own, room.work.data() + own, 1, room.softmax, background, out_background);
  }

  // The gradient of the logits, for incoming ones g of the targets; `background` has its own in it.
  // Returns where it was written.
  const T* gradients(ClassRoom<T>& room, bool has_targets, const T* g, const T* background) const {
    T *h = room.h.data(), *work = room.work.data();
    if (o_.focal()) {
      o_.gamma == 2 ? focal_slopes<Square>(room, has_targets, g, background)
                    : focal_slopes<General>(room, has_targets, g, background);
      return work;
    }
    if (has_targets) multiply_lanes(g, o_.classes, h);
    for (int64_t l = 0; l < kTile; ++l) h[o_.background * kTile + l] += background[l];
    softmax_of<kTile>(room.x.data(), kTile, o_.classes, work, &room.softmax);
    const auto run = is_log() ? &softmax_gradients<true, T> : &softmax_gradients<false, T>;
    run(work, o_.classes, room.softmax, h, room.x.data());
    return room.x.data();
  }

 private:
  bool is_log() const { return o_.loss == "cross_entropy"; }

  template <typename Power>
  void focal(ClassRoom<T>& room, bool has_targets, T* out, T* wrong) const {
    if (has_targets) masses_elsewhere(room.h.data(), o_.classes, room.o.data());
    const auto run = has_targets ? &focal_values<true, Power, T> : &focal_values<false, Power, T>;
    run(room.x.data(), o_.classes, {o_.alpha, o_.gamma}, room.h.data(), room.o.data(), out, wrong);
  }
  template <typename Power>
  void focal_slopes(ClassRoom<T>& room, bool has_targets, const T* g, const T* background) const {
    if (has_targets) masses_elsewhere(room.h.data(), o_.classes, room.o.data());
    const auto run =
        has_targets ? &focal_gradients<true, Power, T> : &focal_gradients<false, Power, T>;
    run(room.x.data(), o_.classes, {o_.alpha, o_.gamma}, g, room.h.data(), room.o.data(),
        background, room.work.data());
  }

  const ClassOptions o_;
  const T background_weight_;
};

}  // namespace fastloss::cpu
