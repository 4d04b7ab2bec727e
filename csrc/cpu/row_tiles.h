// Tiles of rows of (N, C) tensors. The rows of a tile lie along the vector lanes, so that narrow
// rows, such as the 17 logits of a distance, fill vectors too, and no sum goes across lanes.
#pragma once

#include <cstring>

#include "cpu/elementwise.h"
#include "cpu/workspace.h"

namespace fastloss::cpu {

constexpr int64_t kTileRows = 64;
// Element (c, j) of a tile, column c of its row j, is at c * kTileRows + j.

// An offset as wide as T, so that vectors of them fit those of T.
template <typename T>
using Offset = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define FASTLOSS_SHUFFLES
#endif
#endif

#ifdef FASTLOSS_SHUFFLES
// 8 x 8 floats, transposed in registers: a third of the time of loads and stores far apart. Each
// round interleaves the upper half of the rows with the lower one, which moves every bit of an
// element's index (row, column) up by one place.
struct Square {
  static constexpr int64_t kSize = 8;
  typedef float Vector __attribute__((vector_size(kSize * sizeof(float))));
  Vector rows[kSize];

  FASTLOSS_FN void transpose() {
    for (int round = 0; round < 3; ++round) {
      Vector mixed[kSize];
      for (int64_t k = 0; k < kSize / 2; ++k) {
        const Vector a = rows[k], b = rows[k + kSize / 2];
        mixed[2 * k] = __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
        mixed[2 * k + 1] = __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
      }
      for (int64_t k = 0; k < kSize; ++k) rows[k] = mixed[k];
    }
  }
};
#endif

template <typename T>
FASTLOSS_SIMD void transpose_rows_in(const T* __restrict rows, const Offset<T>* __restrict starts,
                                     int64_t columns, int64_t column_stride, T* __restrict tile) {
  int64_t c = 0;
#ifdef FASTLOSS_SHUFFLES
  if constexpr (std::is_same_v<T, float>) {
    // Eight rows to their end, then the next, which is the order of memory; but short rows side by
    // side are no stream that the processor would foresee.
    const int64_t ahead = starts[16] - starts[0];
    for (int64_t j = 0; column_stride == 1 && j < kTileRows; j += Square::kSize)
      for (c = 0; c + Square::kSize <= columns; c += Square::kSize) {
        Square square;
        for (int64_t k = 0; k < Square::kSize; ++k) {
          const T* row = rows + starts[j + k] + c;
          memcpy(&square.rows[k], row, sizeof(Square::Vector));
          __builtin_prefetch(row + ahead);
        }
        square.transpose();
        for (int64_t k = 0; k < Square::kSize; ++k)
          memcpy(tile + (c + k) * kTileRows + j, &square.rows[k], sizeof(Square::Vector));
      }
  }
#endif
  for (; c < columns; ++c)
#pragma GCC ivdep
    for (int64_t j = 0; j < kTileRows; ++j)
      tile[c * kTileRows + j] = rows[c * column_stride + starts[j]];
}

template <typename T>
FASTLOSS_SIMD void transpose_rows_out(const T* __restrict tile, const Offset<T>* __restrict starts,
                                      int64_t columns, T* __restrict rows) {
  int64_t c = 0;
#ifdef FASTLOSS_SHUFFLES
  if constexpr (std::is_same_v<T, float>) {
    for (int64_t j = 0; j < kTileRows; j += Square::kSize)
      for (c = 0; c + Square::kSize <= columns; c += Square::kSize) {
        Square square;
        for (int64_t k = 0; k < Square::kSize; ++k)
          memcpy(&square.rows[k], tile + (c + k) * kTileRows + j, sizeof(Square::Vector));
        square.transpose();
        for (int64_t k = 0; k < Square::kSize; ++k)
          memcpy(rows + starts[j + k] + c, &square.rows[k], sizeof(Square::Vector));
      }
  }
#endif
  for (; c < columns; ++c)
#pragma GCC ivdep
    for (int64_t j = 0; j < kTileRows; ++j) rows[c + starts[j]] = tile[c * kTileRows + j];
}

// The rows of a tensor (N, C) of any float dtype and strides.
template <typename T>
class RowTiles {
 public:
  explicit RowTiles(const Tensor& tensor)
      : columns(tensor.size(1)),
        type_(tensor.scalar_type()),
        row_stride_(tensor.stride(0)),
        column_stride_(tensor.stride(1)),
        data_(const_cast<void*>(tensor.const_data_ptr())) {}

  const int64_t columns;

  // A tile of `count` rows; the last one fills the lanes that are left.
  void load(int64_t first, int64_t count, T* tile) const {
    if (is_direct()) {
      alignas(64) Offset<T> starts[kTileRows];
      for (int64_t j = 0; j < kTileRows; ++j)
        starts[j] = static_cast<Offset<T>>(std::min(j, count - 1) * row_stride_);
      const T* rows = static_cast<const T*>(data_) + first * row_stride_;
      return transpose_rows_in(rows, starts, columns, column_stride_, tile);
    }
    dispatch_float(type_, [&](auto sample) {
      const auto* data = static_cast<const decltype(sample)*>(data_);
      for (int64_t j = 0; j < kTileRows; ++j) {
        const auto* row = data + (first + std::min(j, count - 1)) * row_stride_;
        for (int64_t c = 0; c < columns; ++c)
          tile[c * kTileRows + j] = static_cast<T>(row[c * column_stride_]);
      }
    });
  }

  void store(int64_t first, int64_t count, const T* tile) const {
    if (is_direct() && column_stride_ == 1 && count == kTileRows) {
      alignas(64) Offset<T> starts[kTileRows];
      for (int64_t j = 0; j < kTileRows; ++j) starts[j] = static_cast<Offset<T>>(j * row_stride_);
      T* rows = static_cast<T*>(data_) + first * row_stride_;
      return transpose_rows_out(tile, starts, columns, rows);
    }
    dispatch_float(type_, [&](auto sample) {
      using U = decltype(sample);
      for (int64_t j = 0; j < count; ++j) {
        U* row = static_cast<U*>(data_) + (first + j) * row_stride_;
        for (int64_t c = 0; c < columns; ++c)
          row[c * column_stride_] = static_cast<U>(tile[c * kTileRows + j]);
      }
    });
  }

 private:
  // Whether offsets of the rows of a tile fit.
  bool is_direct() const {
    return type_ == scalar_type_of<T>() &&
           row_stride_ <= std::numeric_limits<Offset<T>>::max() / kTileRows;
  }

  ScalarType type_;
  int64_t row_stride_, column_stride_;
  void* data_;
};

// Calls body(first row, rows, its place in the block) for each tile of the block of `count` rows.
template <typename Body>
void for_each_row_tile(int64_t start, int64_t count, const Body& body) {
  for (int64_t i = 0; i < count; i += kTileRows) body(start + i, std::min(kTileRows, count - i), i);
}

// How the losses of rows become the result. Their blocks have more elements the wider they are, so
// fewer of them are worth waking a thread.
inline Reduction rows_reduction(const Tensor& logits, const std::optional<Tensor>& weight,
                                const std::optional<Tensor>& avg_factor,
                                std::optional<double> divisor, const std::string& reduction) {
  Reduction r(weight, avg_factor, divisor, reduction, logits.size(0), logits.size(0));
  r.grain = std::max<int64_t>(4 * kGrain / logits.size(1), 1);
  return r;
}

}  // namespace fastloss::cpu
