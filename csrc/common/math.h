// Elementary functions that CPU and CUDA share: branch-free so that compilers vectorise loops over
// them, NaN in NaN out, and the same bits on every run. float uses the polynomials below (within
// 2 ulp of the true value on the ranges named); double calls the standard library.
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

// exp(x) for x <= 88; below -87.3 the result stays at the smallest normal number, because a
// denormal result costs a hundred cycles per element and no loss can tell it from zero.
FASTLOSS_FN float exp_(float x) {
  x = x < -87.33f ? -87.33f : x;
  x = x > 88.0f ? 88.0f : x;
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
FASTLOSS_FN double exp_(double x) { return std::exp(x); }

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

// log(1 + e) for e in [0, 1] from s = e / (2 + e) <= 1/3: 2 atanh(s), whose series in s^2 <= 1/9
// is below 2^-26 after seven terms. The caller shares its division.
FASTLOSS_FN float log1p_unit(float, float s) {
  const float z = s * s;
  float y = 1.0f / 13.0f;
  y = y * z + 1.0f / 11.0f;
  y = y * z + 1.0f / 9.0f;
  y = y * z + 1.0f / 7.0f;
  y = y * z + 1.0f / 5.0f;
  y = y * z + 1.0f / 3.0f;
  return 2.0f * (s + s * (z * y));
}
FASTLOSS_FN double log1p_unit(double e, double) { return std::log1p(e); }

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
