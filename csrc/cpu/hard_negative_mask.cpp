// CPU kernel of `hard_negative_mask`: of every row the negatives with the largest losses.
#include "cpu/pixel_tiles.h"

namespace fastloss::cpu {
namespace {

// An unsigned integer with the order of the numbers, reversed: NaN first, 0 and -0 the same.
FASTLOSS_FN uint32_t descending(float x) {
  const int32_t bits = bit_cast<int32_t>(x == 0 ? 0.0f : x);
  return x == x ? ~static_cast<uint32_t>(bits ^ (bits >> 31 | INT32_MIN)) : 0;
}
FASTLOSS_FN uint64_t descending(double x) {
  const int64_t bits = bit_cast<int64_t>(x == 0 ? 0.0 : x);
  return x == x ? ~static_cast<uint64_t>(bits ^ (bits >> 63 | INT64_MIN)) : 0;
}

template <typename T>
FASTLOSS_SIMD void keys_of(const T* __restrict loss, int64_t count,
                           decltype(descending(T{}))* __restrict out) {
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) out[i] = descending(loss[i]);
}

// The mask of one row.
template <typename T>
void choose(const T* loss, const bool* negative, int64_t size, int64_t count, bool* mask) {
  using Key = decltype(descending(T{}));
  const int64_t negatives = std::count(negative, negative + size, true);
  if (count <= 0 || count >= negatives) {
    for (int64_t i = 0; i < size; ++i) mask[i] = count > 0 && negative[i];
    return;
  }
  std::vector<Key> keys(size), candidates;
  keys_of(loss, size, keys.data());
  candidates.reserve(negatives);
  for (int64_t i = 0; i < size; ++i)
    if (negative[i]) candidates.push_back(keys[i]);
  std::nth_element(candidates.begin(), candidates.begin() + count - 1, candidates.end());
  const Key last = candidates[count - 1];
  int64_t equal = count;  // how many with the last key are chosen
  for (int64_t i = 0; i < size; ++i) equal -= negative[i] && keys[i] < last;
  for (int64_t i = 0; i < size; ++i)
    mask[i] = negative[i] && (keys[i] < last || (keys[i] == last && equal-- > 0));
}

template <typename T>
void run(const Tensor& loss, const bool* negative, const std::vector<int64_t>& counts, bool* mask) {
  const Source<T> source(loss);
  const int64_t size = loss.size(1);
  torch::stable::parallel_for(0, loss.size(0), 1, [&](int64_t first, int64_t last) {
    std::vector<T> buffer(size);
    for (int64_t row = first; row < last; ++row) {
      const T* values = source.load(row * size, size, buffer.data());
      choose(values, negative + row * size, size, counts[row], mask + row * size);
    }
  });
}

Tensor hard_negative_mask(Tensor loss, Tensor negative, Tensor count) {
  const Tensor flags = torch::stable::contiguous(negative);
  const Tensor numbers = torch::stable::contiguous(count);
  Tensor result = torch::stable::new_empty(flags, flags.sizes());
  std::vector<int64_t> counts(loss.size(0));
  dispatch_any(count.scalar_type(), [&](auto sample) {
    const auto* data = static_cast<const decltype(sample)*>(numbers.const_data_ptr());
    convert_row(data, static_cast<int64_t>(counts.size()), counts.data());
  });
  const bool* from = static_cast<const bool*>(flags.const_data_ptr());
  bool* to = static_cast<bool*>(result.mutable_data_ptr());
  if (loss.scalar_type() == ScalarType::Double)
    run<double>(loss, from, counts, to);
  else
    run<float>(loss, from, counts, to);
  return result;
}

STABLE_TORCH_LIBRARY_IMPL(fastloss, CPU, m) {
  m.impl("hard_negative_mask", TORCH_BOX(&hard_negative_mask));
}

}  // namespace
}  // namespace fastloss::cpu
