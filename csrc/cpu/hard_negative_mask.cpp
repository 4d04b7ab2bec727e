// CPU kernel of `hard_negative_mask`: of every row the negatives with the largest losses, as many
// as have the mass asked for. Quickselect: each step sorts half of what is open before the rest.
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

template <typename Key>
struct Negative {
  Key key;
  int64_t index;
  bool operator<(const Negative& other) const {
    return key != other.key ? key < other.key : index < other.index;
  }
};

// Masses of 1: the sum is a count.
struct Ones {
  const bool* flags;
  using Sum = int64_t;
  bool is_negative(int64_t i) const { return flags[i]; }
  template <typename Iterator>
  Sum sum(Iterator first, Iterator last) const {
    return last - first;
  }
  // Where to cut `open` negatives for a sum of `left`.
  int64_t guess(int64_t open, Sum left) const { return std::clamp<int64_t>(left, 1, open); }
};

template <typename U>
struct Masses {
  const U* values;
  using Sum = double;
  bool is_negative(int64_t i) const { return static_cast<double>(values[i]) > 0; }
  template <typename Iterator>
  Sum sum(Iterator first, Iterator last) const {
    double total = 0;
    for (; first != last; ++first) total += static_cast<double>(values[first->index]);
    return total;
  }
  int64_t guess(int64_t open, Sum) const { return (open + 1) / 2; }
};

// The mask of one row.
template <typename T, typename Mass>
void choose(const T* loss, const Mass& mass, int64_t size, typename Mass::Sum count, bool* mask) {
  std::fill(mask, mask + size, false);
  std::vector<Negative<decltype(descending(T{}))>> negatives;
  negatives.reserve(size);
  for (int64_t i = 0; i < size; ++i)
    if (mass.is_negative(i)) negatives.push_back({descending(loss[i]), i});
  // Those before `first` are chosen, those from `last` on are not.
  auto first = negatives.begin(), last = negatives.end();
  typename Mass::Sum left = count;
  while (first != last && left > 0) {
    const auto cut = first + mass.guess(last - first, left);
    if (cut != last) std::nth_element(first, cut, last);
    const auto sum = mass.sum(first, cut);
    if (sum <= left) {
      left -= sum;
      first = cut;
    } else {
      last = cut - first == 1 ? first : cut;
    }
  }
  for (auto it = negatives.begin(); it != first; ++it) mask[it->index] = true;
}

// Calls f with the masses of a tensor of flags or of floating point.
template <typename F>
void with_masses(const Tensor& negative, const F& f) {
  if (negative.scalar_type() == ScalarType::Bool) {
    f([data = static_cast<const bool*>(negative.const_data_ptr())](int64_t at) {
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
void run(const Tensor& loss, const RowMass& mass_of, const Tensor& count, bool* mask) {
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
      choose(values, mass_of(row * size), size, counts[row], mask + row * size);
    }
  });
}

Tensor hard_negative_mask(Tensor loss, Tensor negative, Tensor count) {
  const Tensor masses = torch::stable::contiguous(negative);
  const Tensor counts = torch::stable::contiguous(count);
  Tensor result = torch::stable::new_empty(masses, masses.sizes(), ScalarType::Bool);
  bool* mask = static_cast<bool*>(result.mutable_data_ptr());
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
