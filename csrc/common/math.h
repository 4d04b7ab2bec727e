// Elementary functions that CPU and CUDA share: branch-free so that compilers vectorise loops over
// them, NaN in NaN out, and the same bits on every run. float uses the polynomials below (within
// 2 or 3 ulp of the true value on the ranges named); double calls the standard library.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#if defined(__CUDACC__)
#define FASTLOSS_FN __host__ __device__ __forceinline__
#else
#define FASTLOSS_FN inline __attribute__((always_inline))
#endif

namespace fastloss {

template <typename To, typename From>
FASTLOSS_FN To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof(To));
  return to;
}

// As torch.maximum / torch.minimum on ordered values; a NaN in either argument may be lost, so
// formulas carry their NaN separately (see box_geometry.h).
template <typename T>
FASTLOSS_FN T max_(T a, T b) {
  return a > b ? a : b;
}
template <typename T>
FASTLOSS_FN T min_(T a, T b) {
  return a < b ? a : b;
}
template <typename T>
FASTLOSS_FN T abs_(T a) {
  return a < T(0) ? -a : a;
}

// Smallest positive normal number of T: the floor under logarithms and divisions.
template <typename T>
FASTLOSS_FN constexpr T tiny();
template <>
FASTLOSS_FN constexpr float tiny<float>() {
  return 1.17549435e-38f;
}
template <>
FASTLOSS_FN constexpr double tiny<double>() {
  return 2.2250738585072014e-308;
}

// exp(x) for x <= 0; below -87.3 the result stays at the smallest normal number, because a denormal
// result costs a hundred cycles per element and no loss can tell it from zero.
FASTLOSS_FN float exp_nonpositive(float x) {
  x = x < -87.33f ? -87.33f : x;
  // n = round(x / ln 2): adding 1.5 * 2^23 leaves the integer in the low mantissa bits.
  const float shifted = x * 1.44269504f + 12582912.0f;
  const float n = shifted - 12582912.0f;
  const float r = (x - n * 0.693145751953125f) - n * 1.42860677e-6f;  // |r| <= ln(2) / 2
  float y = 1.9875691500e-4f;
  y = y * r + 1.3981999507e-3f;
  y = y * r + 8.3334519073e-3f;
  y = y * r + 4.1665795894e-2f;
  y = y * r + 1.6666665459e-1f;
  y = y * r + 5.0000001201e-1f;
  y = y * (r * r) + r + 1.0f;
  return y * bit_cast<float>((bit_cast<int32_t>(shifted) + 127) << 23);
}
FASTLOSS_FN double exp_nonpositive(double x) { return std::exp(x); }

// exp(x), at most exp(88) for float.
FASTLOSS_FN float exp_(float x) { return exp_nonpositive(x > 88.0f ? 88.0f : x); }
FASTLOSS_FN double exp_(double x) { return std::exp(x); }

// 1 - exp(-b) for b >= 0 without cancellation; below 1/2 by its series.
FASTLOSS_FN float one_minus_exp(float b) {
  float y = 1.0f - b * (1.0f / 8.0f);
  y = 1.0f - b * (1.0f / 7.0f) * y;
  y = 1.0f - b * (1.0f / 6.0f) * y;
  y = 1.0f - b * (1.0f / 5.0f) * y;
  y = 1.0f - b * (1.0f / 4.0f) * y;
  y = 1.0f - b * (1.0f / 3.0f) * y;
  y = 1.0f - b * (1.0f / 2.0f) * y;
  return b < 0.5f ? b * y : 1.0f - exp_nonpositive(-b);
}
FASTLOSS_FN double one_minus_exp(double b) { return -std::expm1(-b); }

// exp(d) - 1 - d for |d| <= 1/2 by its series, which keeps the relative accuracy that the
// difference loses.
template <typename T>
FASTLOSS_FN T exp_remainder(T d) {
  T y = T(1);
  if constexpr (sizeof(T) == sizeof(double)) {
    y = T(1) + d * (T(1) / T(15)) * y;
    y = T(1) + d * (T(1) / T(14)) * y;
    y = T(1) + d * (T(1) / T(13)) * y;
    y = T(1) + d * (T(1) / T(12)) * y;
    y = T(1) + d * (T(1) / T(11)) * y;
    y = T(1) + d * (T(1) / T(10)) * y;
    y = T(1) + d * (T(1) / T(9)) * y;
  }
  y = T(1) + d * (T(1) / T(8)) * y;
  y = T(1) + d * (T(1) / T(7)) * y;
  y = T(1) + d * (T(1) / T(6)) * y;
  y = T(1) + d * (T(1) / T(5)) * y;
  y = T(1) + d * (T(1) / T(4)) * y;
  y = T(1) + d * (T(1) / T(3)) * y;
  return T(0.5) * (d * d) * y;
}

// log(x) for positive normal x, +inf and NaN; smaller arguments count as the smallest normal
// number.
FASTLOSS_FN float log_(float x) {
  const float clamped = x < tiny<float>() ? tiny<float>() : x;
  // x = 2^k * m with m in [sqrt(1/2), sqrt(2)).
  const int32_t bits = bit_cast<int32_t>(clamped) - 0x3f3504f3;
  const float k = static_cast<float>(bits >> 23);
  const float m = bit_cast<float>((bits & 0x007fffff) + 0x3f3504f3);
  const float f = m - 1.0f;
  const float z = f * f;
  float y = 7.0376836292e-2f;
  y = y * f - 1.1514610310e-1f;
  y = y * f + 1.1676998740e-1f;
  y = y * f - 1.2420140846e-1f;
  y = y * f + 1.4249322787e-1f;
  y = y * f - 1.6668057665e-1f;
  y = y * f + 2.0000714765e-1f;
  y = y * f - 2.4999993993e-1f;
  y = y * f + 3.3333331174e-1f;
  y = (y * f * z - 2.12194440e-4f * k) - 0.5f * z;
  const float result = (f + y) + 0.693359375f * k;
  return x < std::numeric_limits<float>::infinity() ? result : x;  // +inf and NaN pass through
}
FASTLOSS_FN double log_(double x) { return std::log(x < tiny<double>() ? tiny<double>() : x); }

// log(1 + x) for x > -1, full relative accuracy near 0 (Kahan): the rounding of u = 1 + x is undone
// by the factor x / (u - 1).
template <typename T>
FASTLOSS_FN T log1p_(T x) {
  const T u = T(1) + x;
  const T excess = u - T(1);
  return excess == T(0) ? x : log_(u) * (x / excess);
}

// log(1 + e) for e in [0, 1]: e + e^2 times a minimax polynomial, relative error 3.3e-8 before
// rounding.
FASTLOSS_FN float log1p_unit(float e) {
  float y = 5.364811e-3f;
  y = y * e - 3.006574e-2f;
  y = y * e + 7.9204454e-2f;
  y = y * e - 1.37537958e-1f;
  y = y * e + 1.9153652e-1f;
  y = y * e - 2.4857163e-1f;
  y = y * e + 3.33213225e-1f;
  y = y * e - 4.9999648e-1f;
  return e + (e * e) * y;
}
FASTLOSS_FN double log1p_unit(double e) { return std::log1p(e); }

// 1 / (1 + e) for e in [0, 1]: a cubic within 2e-3 and two steps of Newton's method, a third of the
// time of a division.
FASTLOSS_FN float inverse_1p(float e) {
  const float a = 1.0f + e;
  float y = 9.9826686e-1f + e * (-9.4280602e-1f + e * (6.6550649e-1f + e * -2.2183374e-1f));
  y = y + y * (1.0f - a * y);
  return y + y * (1.0f - a * y);
}
FASTLOSS_FN double inverse_1p(double e) { return 1 / (1 + e); }

// x^y for x >= 0, with 0^0 = 1. y is the same for all elements.
template <typename T>
FASTLOSS_FN T pow_(T x, T y) {
  const T power = exp_(y * log_(x));
  return x > T(0) ? power : (x == T(0) ? (y == T(0) ? T(1) : T(0)) : x * T(NAN));
}

// atan(y / x) in [-pi/2, pi/2], one division; 0 where both arguments are 0.
template <typename T>
FASTLOSS_FN T atan_ratio(T y, T x) {
  const T ay = abs_(y), ax = abs_(x);
  const bool steep = ay > T(2.414213562373095) * ax;    // above 3 pi / 8
  const bool middle = ay > T(0.4142135623730951) * ax;  // above pi / 8
  const T numerator = steep ? -ax : (middle ? ay - ax : ay);
  const T denominator = steep ? ay : (middle ? ay + ax : ax);
  const T base = steep ? T(1.5707963267948966) : (middle ? T(0.7853981633974483) : T(0));
  const T t = numerator / max_(denominator, tiny<T>());
  T result;
  if constexpr (sizeof(T) == sizeof(float)) {
    const T z = t * t;
    T p = T(8.05374449538e-2);
    p = p * z - T(1.38776856032e-1);
    p = p * z + T(1.99777106478e-1);
    p = p * z - T(3.33329491539e-1);
    result = base + (p * z * t + t);
  } else {
    result = base + std::atan(t);
  }
  return (y < T(0)) != (x < T(0)) ? -result : result;
}

}  // namespace fastloss
