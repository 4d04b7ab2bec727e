// CPU kernel of `hard_negative_mask`: of every row the negatives with the largest losses, as many
// as have the mass asked for. A radix search: the masses of all negatives by the leading bits of
// their losses tell the bin in which the last one chosen is; then those of that bin by their next
// bits. The few that are left are sorted. In a long row of which few are chosen, samples first tell
// a bound beyond which nothing has to be looked at.
#include <array>
#include <bit>
#include <cmath>
#include <cstring>

#include "cpu/pixel_tiles.h"

namespace fastloss::cpu {
namespace {

// Bits of a level. The bins of many negatives fill a first-level cache; those of fewer are cleared
// and added up sooner.
constexpr int kManyBits = 11, kFewerBits = 8, kCopies = 4;
constexpr int64_t kMany = 2048;
constexpr size_t kFew = 32;  // are sorted
// Of a long row so many samples tell the search where to look; shorter ones do not pay for it.
constexpr int64_t kLong = 1 << 17, kSamples = 4096;

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
using Key = decltype(descending(T{}));

// Masses of 1: the sum is a count. Flags are bytes here, because loops over bool do not vectorise.
struct Ones {
  const uint8_t* flags;
  using Sum = int64_t;
  FASTLOSS_FN bool is_negative(int64_t i) const { return flags[i] != 0; }
  FASTLOSS_FN Sum of(int64_t i) const { return flags[i]; }
  FASTLOSS_FN Sum of_negative(int64_t) const { return 1; }
};

template <typename U>
struct Masses {
  const U* values;
  using Sum = double;
  FASTLOSS_FN bool is_negative(int64_t i) const { return static_cast<double>(values[i]) > 0; }
  FASTLOSS_FN Sum of(int64_t i) const { return is_negative(i) ? of_negative(i) : 0; }
  FASTLOSS_FN Sum of_negative(int64_t i) const { return static_cast<double>(values[i]); }
};

template <typename T>
FASTLOSS_SIMD void keys_of(const T* __restrict loss, int64_t count, Key<T>* __restrict keys) {
  for (int64_t i = 0; i < count; ++i) keys[i] = descending(loss[i]);
}

// Negatives are chosen in the order of their keys, of the same key in that of their indices.
template <typename Key>
struct Negative {
  Key key;
  int64_t index;
  bool operator<(const Negative& other) const {
    return key != other.key ? key < other.key : index < other.index;
  }
};

// mask_i for a block that begins at `start`, given the last negative chosen.
template <typename Key, typename Mass>
FASTLOSS_SIMD void mark_chosen(const Key* __restrict keys, const Mass& mass, int64_t start,
                               int64_t count, const Negative<Key>& last, uint8_t* __restrict mask) {
  const Key key = last.key;
  const int32_t limit = std::clamp<int64_t>(last.index - start, -1, count);
  for (int32_t i = 0; i < static_cast<int32_t>(count); ++i) {
    const bool before = (keys[i] < key) | ((keys[i] == key) & (i <= limit));
    mask[i] = before & mass.is_negative(start + i);
  }
}

// hit_i of the negatives with a key from `low` to `high`.
template <typename Key, typename Mass>
FASTLOSS_SIMD void mark_between(const Key* __restrict keys, const Mass& mass, int64_t start,
                                int64_t count, Key low, Key high, uint8_t* __restrict hit) {
  for (int64_t i = 0; i < count; ++i)
    hit[i] = (keys[i] >= low) & (keys[i] <= high) & mass.is_negative(start + i);
}

// The masses of negatives by some bits of their keys. Several sums for each bin, so that an
// addition need not wait for the one before it, mostly to the same bin.
template <typename Sum>
struct Bins {
  const int bits;
  Sum sums[kCopies][1 << kManyBits];

  explicit Bins(int64_t negatives) : bits(negatives > kMany ? kManyBits : kFewerBits) {
    for (Sum* copy : sums) std::fill(copy, copy + (1 << bits), Sum(0));
  }
  // The first bin that is not chosen as a whole, 2^bits if all are; takes those before it from
  // `left`.
  int64_t find(Sum* left) const {
    Sum before = 0;
    for (int64_t bin = 0; bin < 1 << bits; ++bin) {
      const Sum next = before + ((sums[0][bin] + sums[1][bin]) + (sums[2][bin] + sums[3][bin]));
      if (!(next <= *left)) {
        *left -= before;
        return bin;
      }
      before = next;
    }
    return 1 << bits;
  }
};

template <typename T, typename Mass>
class Row {
 public:
  using Sum = typename Mass::Sum;

  Row(const T* loss, const Mass& mass, int64_t size) : loss_(loss), mass_(mass), size_(size) {}

  // Which are chosen for a sum of masses of at most `left`.
  void choose(Sum left, uint8_t* mask) const {
    if (!(left > 0)) {
      std::fill(mask, mask + size_, 0);
      return;
    }
    const Negative<Key<T>> last = find_last(left);
    for_each_part([&](const Key<T>* keys, int64_t start, int64_t count) {
      mark_chosen(keys, mass_, start, count, last, mask + start);
    });
  }

 private:
  static constexpr int kWidth = 8 * sizeof(Key<T>);

  Negative<Key<T>> find_last(Sum left) const {
    int shift = kWidth;
    Key<T> greatest = std::numeric_limits<Key<T>>::max();  // that an open one may have
    // In order of their indices, with the same leading kWidth - shift bits of their keys.
    std::vector<Negative<Key<T>>> open;
    if (size_ <= static_cast<int64_t>(kFew)) {
      open.reserve(kFew);
      collect(0, greatest, &open);
    } else if (const std::optional<Key<T>> bound = likely_bound(left)) {
      greatest = *bound;
      collect(0, greatest, &open);
      Sum sum = 0;
      for (const auto& negative : open) sum += mass_.of_negative(negative.index);
      if (sum <= left) {  // not so likely: begin with all of them
        greatest = std::numeric_limits<Key<T>>::max();
        open.clear();
      }
    }
    if (open.empty() && size_ > static_cast<int64_t>(kFew)) {
      Bins<Sum> bins(size_);
      shift -= bins.bits;
      for_each_part([&](const Key<T>* keys, int64_t start, int64_t count) {
        for (int64_t i = 0; i < count; ++i)
          bins.sums[i % kCopies][keys[i] >> shift] += mass_.of(start + i);
      });
      const Key<T> digit = bins.find(&left);
      if (digit >> bins.bits) return {greatest, size_};
      greatest = (digit << shift) + ((Key<T>(1) << shift) - 1);
      collect(digit << shift, greatest, &open);
    }
    if (open.size() > kFew) {
      Key<T> least = greatest, most = 0;
      for (const auto& negative : open) {
        least = std::min(least, negative.key);
        most = std::max(most, negative.key);
      }
      shift = std::bit_width(static_cast<Key<T>>(least ^ most));  // other bits are all the same
    }
    while (shift > 0 && open.size() > kFew) {
      Bins<Sum> bins(open.size());
      shift -= std::min(bins.bits, shift);
      const Key<T> bits = (Key<T>(1) << bins.bits) - 1;
      const auto digit_of = [&](const auto& negative) { return negative.key >> shift & bits; };
      for (size_t k = 0; k < open.size(); ++k)
        bins.sums[k % kCopies][digit_of(open[k])] += mass_.of_negative(open[k].index);
      const Key<T> digit = bins.find(&left);
      // Sums of masses depend on their order, so that all may fit now.
      if (digit >> bins.bits) return {greatest, size_};
      std::erase_if(open, [&](const auto& negative) { return digit_of(negative) != digit; });
      greatest = open[0].key | ((Key<T>(1) << shift) - 1);
    }
    if (shift > 0) std::sort(open.begin(), open.end());
    return last_of(open, left);
  }

  // The same of those that are left, sorted.
  Negative<Key<T>> last_of(const std::vector<Negative<Key<T>>>& open, Sum left) const {
    Negative<Key<T>> last{open.empty() ? Key<T>(0) : open[0].key, -1};
    Sum sum = 0;
    for (const auto& negative : open) {
      sum += mass_.of_negative(negative.index);
      if (!(sum <= left)) break;
      last = negative;
    }
    return last;
  }

  // A key up to which the masses are likely to be more than `left`, but not much more: from those
  // of every so many elements, and beyond by six standard deviations. None where it would leave
  // many negatives open.
  std::optional<Key<T>> likely_bound(Sum left) const {
    if (size_ < kLong) return {};
    const int64_t step = size_ / kSamples;
    std::vector<Negative<Key<T>>> samples;
    for (int64_t i = 0; i < size_; i += step)
      if (mass_.is_negative(i)) samples.push_back({descending(loss_[i]), i});
    std::sort(samples.begin(), samples.end());
    double sum = 0;
    size_t count = 0;
    for (; count < samples.size() && sum * step <= left; ++count)
      sum += mass_.of(samples[count].index);
    count += 16 + static_cast<size_t>(6 * std::sqrt(static_cast<double>(count)));
    if (count >= samples.size() / 4) return {};
    return samples[count].key;
  }

  // Appends the negatives whose key is at least `low` and at most `high`.
  void collect(Key<T> low, Key<T> high, std::vector<Negative<Key<T>>>* open) const {
    for_each_part([&](const Key<T>* keys, int64_t start, int64_t count) {
      alignas(8) uint8_t hit[kBlock + 8] = {};
      mark_between(keys, mass_, start, count, low, high, hit);
      for (int64_t i = 0; i < count; i += 8) {
        uint64_t word;  // mostly 0: few are hit
        std::memcpy(&word, hit + i, 8);
        for (; word; word &= word - 1) {
          const int64_t j = i + std::countr_zero(word) / 8;
          open->push_back({keys[j], start + j});
        }
      }
    });
  }

  // Calls f(keys, start, count) for blocks of the row.
  template <typename F>
  void for_each_part(const F& f) const {
    Key<T> keys[kBlock];
    for (int64_t start = 0; start < size_; start += kBlock) {
      const int64_t count = std::min(kBlock, size_ - start);
      keys_of(loss_ + start, count, keys);
      f(keys, start, count);
    }
  }

  const T* loss_;
  const Mass& mass_;
  const int64_t size_;
};

// Calls f with the masses of a tensor of flags or of floating point.
template <typename F>
void with_masses(const Tensor& negative, const F& f) {
  if (negative.scalar_type() == ScalarType::Bool) {
    f([data = static_cast<const uint8_t*>(negative.const_data_ptr())](int64_t at) {
      return Ones{data + at};
    });
    return;
  }
  dispatch_float(negative.scalar_type(), [&](auto sample) {
    using U = decltype(sample);
    f([data = static_cast<const U*>(negative.const_data_ptr())](int64_t at) {
      return Masses<U>{data + at};
    });
  });
}

template <typename T, typename RowMass>
void run(const Tensor& loss, const RowMass& mass_of, const Tensor& count, uint8_t* mask) {
  using Sum = typename decltype(mass_of(0))::Sum;
  const Source<T> source(loss);
  const int64_t size = loss.size(1);
  std::vector<Sum> counts(loss.size(0));
  dispatch_any(count.scalar_type(), [&](auto sample) {
    const auto* data = static_cast<const decltype(sample)*>(count.const_data_ptr());
    convert_row(data, static_cast<int64_t>(counts.size()), counts.data());
  });
  torch::stable::parallel_for(0, loss.size(0), 1, [&](int64_t first, int64_t last) {
    std::vector<T> buffer(size);
    for (int64_t row = first; row < last; ++row) {
      const T* values = source.load(row * size, size, buffer.data());
      const auto mass = mass_of(row * size);
      Row(values, mass, size).choose(counts[row], mask + row * size);
    }
  });
}

Tensor hard_negative_mask(Tensor loss, Tensor negative, Tensor count) {
  const Tensor masses = torch::stable::contiguous(negative);
  const Tensor counts = torch::stable::contiguous(count);
  Tensor result = torch::stable::new_empty(masses, masses.sizes(), ScalarType::Bool);
  uint8_t* mask = static_cast<uint8_t*>(result.mutable_data_ptr());
  with_masses(masses, [&](const auto& mass_of) {
    loss.scalar_type() == ScalarType::Double ? run<double>(loss, mass_of, counts, mask)
                                             : run<float>(loss, mass_of, counts, mask);
  });
  return result;
}

STABLE_TORCH_LIBRARY_IMPL(fastloss, CPU, m) {
  m.impl("hard_negative_mask", TORCH_BOX(&hard_negative_mask));
}

}  // namespace
}  // namespace fastloss::cpu
