// The element-wise formulas of the stem `sigmoid_focal`: value f(x, t) and its partial derivatives.
// x is a logit or, in formulas marked so, a probability; t is the target. Sources and definitions
// stand in fastloss/reference/sigmoid_focal.py; here they are arranged so that no term cancels.
#pragma once

#include "common/math.h"

namespace fastloss {

// The parameters of all kinds; each formula reads the ones it knows.
template <typename T>
struct FocalParams {
  T alpha, gamma, pos_weight, neg_weight;
};

template <typename T>
struct Derivatives {
  T x, t;
};

// Binary cross entropy and the probability behind it, from a logit.
template <typename T>
struct Logit {
  T x, p, q, softplus_tail;  // q = 1 - p without cancellation; softplus_tail = log(1 + exp(-|x|))

  FASTLOSS_FN Logit(T x, T p, T q, T softplus_tail)
      : x(x), p(p), q(q), softplus_tail(softplus_tail) {}
  FASTLOSS_FN explicit Logit(T logit) : x(logit) {
    const T e = exp_nonpositive(-abs_(x));
    const T r = inverse_1p(e);
    p = x < T(0) ? e * r : r;
    q = x < T(0) ? r : e * r;
    softplus_tail = log1p_unit(e);
  }
  FASTLOSS_FN T bce(T t) const {
    return t * (max_(-x, T(0)) + softplus_tail) + (T(1) - t) * (max_(x, T(0)) + softplus_tail);
  }
  FASTLOSS_FN T bce_dx(T t) const { return residual(t); }
  FASTLOSS_FN T bce_dt(T) const { return -x; }
  FASTLOSS_FN T residual(T t) const { return p * (T(1) - t) - q * t; }  // p - t
  FASTLOSS_FN T dp() const { return p * q; }                            // dp/dx
};

// The same from a probability; logarithms are floored at -100 as in torch's binary_cross_entropy.
template <typename T>
struct Probability {
  T p, q, log_p, log_q;

  FASTLOSS_FN explicit Probability(T probability) : p(probability), q(T(1) - probability) {
    const T in_range = (p >= T(0)) & (q >= T(0)) ? T(0) : T(NAN);
    log_p = max_(p > T(0) ? log_(p) : T(-100), T(-100)) + in_range;
    log_q = max_(q > T(0) ? log1p_(-p) : T(-100), T(-100)) + in_range;
  }
  FASTLOSS_FN T bce(T t) const { return -(t * log_p + (T(1) - t) * log_q); }
  FASTLOSS_FN T bce_dx(T t) const { return residual(t) / max_(p * q, T(1e-12)); }
  FASTLOSS_FN T bce_dt(T) const { return log_q - log_p; }
  FASTLOSS_FN T residual(T t) const { return p * (T(1) - t) - q * t; }
  FASTLOSS_FN T dp() const { return T(1); }
};

// m^gamma and its derivative for m >= 0. Square is the default of every focal loss and needs no
// logarithm; General floors m under the derivative's power so that 0^(gamma - 1) stays finite.
struct Square {
  template <typename T>
  static FASTLOSS_FN T value(T m, T) {
    return m * m;
  }
  template <typename T>
  static FASTLOSS_FN T derivative(T m, T) {
    return T(2) * m;
  }
};
struct General {
  template <typename T>
  static FASTLOSS_FN T value(T m, T gamma) {
    return pow_(m, gamma);
  }
  template <typename T>
  static FASTLOSS_FN T derivative(T m, T gamma) {
    return gamma == T(0) ? T(0) : gamma * pow_(max_(m, tiny<T>()), gamma - T(1));
  }
};

// a (q t + p (1 - t))^gamma bce(x, t), a = alpha t + (1 - alpha)(1 - t), or 1 for alpha < 0.
template <template <typename> class Input, typename Power>
struct Focal {
  template <typename T>
  static FASTLOSS_FN T value(T x, T t, T, const FocalParams<T>& o) {
    const Input<T> in(x);
    const T a = o.alpha < T(0) ? T(1) : o.alpha * t + (T(1) - o.alpha) * (T(1) - t);
    return a * Power::value(in.q * t + in.p * (T(1) - t), o.gamma) * in.bce(t);
  }
  template <typename T>
  static FASTLOSS_FN Derivatives<T> derivatives(T x, T t, T, const FocalParams<T>& o) {
    const Input<T> in(x);
    const T a = o.alpha < T(0) ? T(1) : o.alpha * t + (T(1) - o.alpha) * (T(1) - t);
    const T da = o.alpha < T(0) ? T(0) : T(2) * o.alpha - T(1);
    const T m = in.q * t + in.p * (T(1) - t);
    const T power = Power::value(m, o.gamma), slope = Power::derivative(m, o.gamma),
            bce = in.bce(t);
    return {a * (slope * in.dp() * (T(1) - T(2) * t) * bce + power * in.bce_dx(t)),
            da * power * bce + a * (slope * (in.q - in.p) * bce + power * in.bce_dt(t))};
  }
};

// |p - t|^gamma bce(x, t).
template <template <typename> class Input, typename Power>
struct QualityFocal {
  template <typename T>
  static FASTLOSS_FN T value(T x, T t, T, const FocalParams<T>& o) {
    const Input<T> in(x);
    return Power::value(abs_(in.residual(t)), o.gamma) * in.bce(t);
  }
  template <typename T>
  static FASTLOSS_FN Derivatives<T> derivatives(T x, T t, T, const FocalParams<T>& o) {
    const Input<T> in(x);
    const T d = in.residual(t);
    const T sign = d > T(0) ? T(1) : (d < T(0) ? T(-1) : T(0));
    const T power = Power::value(abs_(d), o.gamma);
    const T slope = Power::derivative(abs_(d), o.gamma) * sign * in.bce(t);
    return {slope * in.dp() + power * in.bce_dx(t), power * in.bce_dt(t) - slope};
  }
};

// (t or 1 where t > 0, alpha |p - t|^gamma elsewhere) bce(x, t); pos_weight = 1 selects t, 0
// selects 1.
template <typename Power>
struct Varifocal {
  template <typename T>
  static FASTLOSS_FN T value(T x, T t, T, const FocalParams<T>& o) {
    const Logit<T> in(x);
    const T positive = o.pos_weight != T(0) ? t : T(1);
    const T negative = o.alpha * Power::value(abs_(in.residual(t)), o.gamma);
    return (t > T(0) ? positive : negative) * in.bce(t);
  }
  template <typename T>
  static FASTLOSS_FN Derivatives<T> derivatives(T x, T t, T, const FocalParams<T>& o) {
    const Logit<T> in(x);
    const T d = in.residual(t), bce = in.bce(t);
    const T sign = d > T(0) ? T(1) : (d < T(0) ? T(-1) : T(0));
    const bool pos = t > T(0);
    const T slope = o.alpha * Power::derivative(abs_(d), o.gamma) * sign;
    const T negative = o.alpha * Power::value(abs_(d), o.gamma);
    const T weight = pos ? (o.pos_weight != T(0) ? t : T(1)) : negative;
    const T weight_dp = pos ? T(0) : slope;
    const T weight_dt = pos ? (o.pos_weight != T(0) ? T(1) : T(0)) : -slope;
    return {weight_dp * in.dp() * bce + weight * in.bce_dx(t),
            weight_dt * bce + weight * in.bce_dt(t)};
  }
};

// Heat-map focal loss on probabilities p:
// -[t = 1] pos (1 - p)^alpha log(p + eps) - neg (1 - t)^gamma p^alpha log(1 - p + eps), eps 1e-12.
template <typename Power>
struct GaussianFocal {
  static constexpr double eps = 1e-12;

  template <typename T>
  static FASTLOSS_FN T fade(T t, const FocalParams<T>& o) {
    if constexpr (std::is_same_v<Power, Square>) {  // chosen for alpha = 2, gamma = 4
      const T s = (T(1) - t) * (T(1) - t);
      return s * s;
    }
    return pow_(T(1) - t, o.gamma);
  }
  template <typename T>
  static FASTLOSS_FN T value(T p, T t, T, const FocalParams<T>& o) {
    const T q = T(1) - p;
    const T pos = t == T(1) ? o.pos_weight : T(0), neg = o.neg_weight * fade(t, o);
    return -pos * Power::value(q, o.alpha) * log_(p + T(eps)) -
           neg * Power::value(p, o.alpha) * log_(q + T(eps));
  }
  template <typename T>
  static FASTLOSS_FN Derivatives<T> derivatives(T p, T t, T, const FocalParams<T>& o) {
    const T q = T(1) - p;
    const T pos = t == T(1) ? o.pos_weight : T(0), neg = o.neg_weight * fade(t, o);
    const T log_p = log_(p + T(eps)), log_q = log_(q + T(eps));
    const T p_alpha = Power::value(p, o.alpha), q_alpha = Power::value(q, o.alpha);
    const T dx = pos * (log_p * Power::derivative(q, o.alpha) - q_alpha / (p + T(eps))) +
                 neg * (p_alpha / (q + T(eps)) - log_q * Power::derivative(p, o.alpha));
    const T s = T(1) - t;
    T dfade;
    if constexpr (std::is_same_v<Power, Square>) {
      dfade = T(4) * s * s * s;
    } else {
      dfade = General::derivative(s, o.gamma);
    }
    return {dx, o.neg_weight * dfade * log_q * p_alpha};
  }
};

// Binary cross entropy with positive weight w: (1 - t) softplus(x) + w t softplus(-x); entries with
// t < 0 are ignored (the loader writes -1 for them).
struct BinaryCrossEntropy {
  template <typename T>
  static FASTLOSS_FN T value(T x, T t, T w, const FocalParams<T>&) {
    const Logit<T> in(x);
    const T pos = max_(-x, T(0)) + in.softplus_tail, neg = max_(x, T(0)) + in.softplus_tail;
    return t < T(0) ? T(0) : (T(1) - t) * neg + w * t * pos;
  }
  template <typename T>
  static FASTLOSS_FN Derivatives<T> derivatives(T x, T t, T w, const FocalParams<T>&) {
    const Logit<T> in(x);
    const T pos = max_(-x, T(0)) + in.softplus_tail, neg = max_(x, T(0)) + in.softplus_tail;
    const bool ignored = t < T(0);
    return {ignored ? T(0) : (T(1) - t) * in.p - w * t * in.q, ignored ? T(0) : w * pos - neg};
  }
};

}  // namespace fastloss
