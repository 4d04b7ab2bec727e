// Tiles of `matched_detection`: predictions along the vector lanes, their logits class by class and
// their masses target by target, so that nothing is ever reduced across a vector.
#pragma once

#include "cpu/box_tiles.h"
#include "cpu/pixel_tiles.h"

namespace fastloss::cpu {

constexpr int64_t kTile = 32;  // predictions of a tile

// A target that is no padding. `finite`: the box is; one that is not is replaced by the unit box.
template <typename T>
struct Target {
  int64_t column;  // of the matching
  Label<T> label;
  T weight;
  bool finite, tame, proper;  // see `Boxes`
  PairBox<T> narrow;
  PairBox<double> wide;

  template <typename U>
  const PairBox<U>& box() const {
    if constexpr (std::is_same_v<T, U>) {
      return narrow;
    } else {
      return wide;
    }
  }
};

// Those of the targets with a mass at some prediction of a tile, and these masses.
template <typename T>
struct Pairs {
  const Target<T>* targets;
  std::vector<int32_t> chosen;
  std::vector<T> masses;  // (count, kTile)
  int64_t count = 0;

  const Target<T>& target(int64_t k) const { return targets[chosen[k]]; }
  const T* of(int64_t k) const { return masses.data() + k * kTile; }
};

template <typename T>
using Bits = std::make_unsigned_t<Label<T>>;

// Whether the first `columns` >= kVector of any of the rows hold a number that is not 0. Rows are
// read in whole vectors, the last of which overlaps the one before it.
template <typename T>
FASTLOSS_SIMD bool has_mass(const T* __restrict rows, int64_t width, int64_t columns) {
  alignas(64) Bits<T> any[kVector] = {};
  for (int64_t r = 0; r < kTile; ++r) {
    const T *row = rows + r * width, *last = row + columns - kVector;
    for (int64_t k = 0; k < kVector; ++k) any[k] |= bit_cast<Bits<T>>(last[k]);
    for (int64_t c = 0; c + kVector <= columns; c += kVector)
      for (int64_t k = 0; k < kVector; ++k) any[k] |= bit_cast<Bits<T>>(row[c + k]);
  }
  Bits<T> all = 0;
  for (int64_t k = 0; k < kVector; ++k) all |= any[k];
  return static_cast<Bits<T>>(all << 1) != 0;  // without the sign: -0 is no mass
}

// Column 0 of the rows along the lanes; returns whether one of these is not 0.
template <typename T>
FASTLOSS_SIMD bool gather_lanes(const T* __restrict rows, const Label<T>* __restrict starts,
                                T* __restrict out) {
  Bits<T> any = 0;
#pragma omp simd reduction(| : any)
  for (int64_t l = 0; l < kTile; ++l) {
    out[l] = rows[starts[l]];
    any |= bit_cast<Bits<T>>(out[l]);
  }
  return static_cast<Bits<T>>(any << 1) != 0;
}

// Rows of `columns` logits, those of lanes that are used, as columns of kTile.
template <typename T>
FASTLOSS_SIMD void transpose_rows(const T* __restrict rows, int64_t columns,
                                  const Label<T>* __restrict starts, const T* __restrict used,
                                  T* __restrict out) {
  for (int64_t c = 0; c < columns; ++c)
#pragma GCC ivdep
    for (int64_t l = 0; l < kTile; ++l) {
      const T x = rows[c + starts[l]];
      out[c * kTile + l] = used[l] != T(0) ? x : T(0);
    }
}
template <typename T>
FASTLOSS_SIMD void transpose_back(const T* __restrict in, int64_t columns,
                                  const Label<T>* __restrict starts, T* __restrict rows) {
  for (int64_t c = 0; c < columns; ++c)
#pragma GCC ivdep
    for (int64_t l = 0; l < kTile; ++l) rows[c + starts[l]] = in[c * kTile + l];
}

// What the predictions of a tile have of the matching.
template <typename T>
struct Masses {
  alignas(64) T background[kTile], matched[kTile], weighted[kTile];
  T any[kTile], any_weighted[kTile];  // sums of magnitudes: not 0 if one of the masses is not
};

// Adds the masses of a target, the weighted ones also to those of its class.
template <typename T>
FASTLOSS_SIMD void add_target(const T* __restrict mass, T weight, T* __restrict of_class,
                              Masses<T>* __restrict sums) {
#pragma GCC ivdep
  for (int64_t l = 0; l < kTile; ++l) {
    const T m = mass[l], w = m != T(0) ? m * weight : T(0);
    of_class[l] += w;
    sums->matched[l] += m;
    sums->weighted[l] += w;
    sums->any[l] += abs_(m);
    sums->any_weighted[l] += abs_(w);
  }
}

// a b, 0 where a is.
template <typename T>
FASTLOSS_FN T times(T a, T b) {
  return a != T(0) ? a * b : T(0);
}

template <typename T>
bool any_of(const T* lanes) {
  return std::any_of(lanes, lanes + kTile, [](T x) { return x != T(0); });
}

}  // namespace fastloss::cpu
