// CPU kernel of `linear_assignment`: shortest augmenting paths, the problems of a batch in
// parallel. Algorithm, ties and source: fastloss/reference/linear_assignment.py, whose i and j,
// members of the smaller and of the larger side, these are too.
//
// The greedy start reads every cost once, along the rows of the matrix; few i are visited after it
// in usual problems, so that the costs of one are gathered when it is visited first.
#include <torch/csrc/stable/library.h>

#include <stdexcept>

#include "cpu/elementwise.h"
#include "cpu/workspace.h"

namespace fastloss::cpu {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr int64_t kRows = 8;     // read together
constexpr int64_t kVector = 16;  // lines of costs are padded with +inf to a multiple of this

enum class Outcome : char { kSolved, kInvalid, kInfeasible };

// An integer as wide as T, so that both fill vectors alike.
template <typename T>
using Index = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;

// Of x, the costs of kCount j from `first` on, `stride` apart: where they are the least of an i so
// far, they and their j are kept. Returns how many are NaN.
template <int kCount, typename T>
FASTLOSS_SIMD T keep_least(const T* __restrict x, int64_t stride, int64_t count, Index<T> first,
                           T* __restrict least, Index<T>* __restrict at) {
  T nans = 0;
#pragma omp simd reduction(+ : nans)
  for (int64_t i = 0; i < count; ++i) {
    T kept = least[i];
    Index<T> j = at[i];
    for (int k = 0; k < kCount; ++k) {
      const T y = x[k * stride + i];
      j = y < kept ? first + k : j;
      kept = min_(y, kept);
      nans += y == y ? T(0) : T(1);
    }
    least[i] = kept;
    at[i] = j;
  }
  return nans;
}

// The least of x, the costs of one i; `nans` grows by how many are NaN.
template <typename T>
FASTLOSS_SIMD T least_of(const T* x, int64_t count, T& nans) {
  T least = std::numeric_limits<T>::infinity(), found = 0;
#pragma omp simd reduction(min : least) reduction(+ : found)
  for (int64_t j = 0; j < count; ++j) {
    least = min_(x[j], least);
    found += x[j] == x[j] ? T(0) : T(1);
  }
  nans += found;
  return least;
}

// The first j at which x has this value, else `count`.
template <typename T>
FASTLOSS_SIMD Index<T> first_of(const T* x, int64_t count, T value) {
  Index<T> first = static_cast<Index<T>>(count);
#pragma omp simd reduction(min : first)
  for (Index<T> j = 0; j < static_cast<Index<T>>(count); ++j) {
    const Index<T> found = x[j] == value ? j : static_cast<Index<T>>(count);
    first = found < first ? found : first;
  }
  return first;
}

// Shortens the distances of the j that are nearer through i, at `length` from the start; returns
// the least distance.
template <typename T>
FASTLOSS_SIMD double relax(const T* __restrict costs, int64_t count, double length, double u,
                           const double* __restrict v, int64_t i, double* __restrict distance,
                           int64_t* __restrict before) {
  double least = kInfinity;
#pragma omp simd reduction(min : least)
  for (int64_t j = 0; j < count; ++j) {
    const double through = length + ((static_cast<double>(costs[j]) - u) - v[j]);
    const double known = distance[j];
    before[j] = through < known ? i : before[j];
    distance[j] = min_(through, known);
    least = min_(min_(through, known), least);
  }
  return least;
}

// The first j at this distance, a free one if there is any.
FASTLOSS_SIMD int64_t nearest(const double* __restrict distance, const int64_t* __restrict i_of,
                              double least, int64_t count) {
  int64_t first = 2 * count;
#pragma omp simd reduction(min : first)
  for (int64_t j = 0; j < count; ++j) {
    const int64_t rank = i_of[j] < 0 ? j : j + count;  // behind all free ones
    const int64_t found = distance[j] == least ? rank : 2 * count;
    first = found < first ? found : first;
  }
  return first < count ? first : first - count;
}

// Of one matrix (N, M) of the batch the columns that count, numbered anew. Elements of a row lie
// together in memory.
template <typename T>
struct Matrix {
  Tensor cost;
  int64_t rows, columns, start;
  std::vector<int64_t> chosen;
  bool in_place;  // rows can be read as they are

  Matrix(const Tensor& cost, const bool* mask, int64_t b)
      : cost(cost), rows(cost.size(1)), start(b * cost.stride(0)) {
    for (int64_t m = 0; m < cost.size(2); ++m)
      if (mask == nullptr || mask[b * cost.size(2) + m]) chosen.push_back(m);
    columns = chosen.size();
    in_place =
        cost.scalar_type() == scalar_type_of<T>() && (columns == 0 || chosen.back() == columns - 1);
  }
  struct Lines {
    const T* data;
    int64_t stride;
  };
  // Rows [first, last), in the buffer unless they can be read in place.
  Lines lines(int64_t first, int64_t last, T* buffer) const {
    if (in_place) {
      const T* data = static_cast<const T*>(cost.const_data_ptr()) + start;
      return {data + first * cost.stride(1), cost.stride(1)};
    }
    for (int64_t n = first; n < last; ++n) copy_row(n, buffer + (n - first) * columns);
    return {buffer, columns};
  }
  void copy_row(int64_t n, T* out) const {
    visit([&](const auto* data) {
      const auto* row = data + n * cost.stride(1);
      for (int64_t t = 0; t < columns; ++t) out[t] = static_cast<T>(row[chosen[t]]);
    });
  }
  void copy_column(int64_t t, T* out) const {
    visit([&](const auto* data) {
      const int64_t stride = cost.stride(1);
      for (int64_t n = 0; n < rows; ++n) out[n] = static_cast<T>(data[n * stride + chosen[t]]);
    });
  }

 private:
  template <typename F>
  void visit(const F& f) const {
    dispatch_float(cost.scalar_type(), [&](auto sample) {
      f(static_cast<const decltype(sample)*>(cost.const_data_ptr()) + start);
    });
  }
};

// Solves one problem after another in the same memory. T is float or double, sums are double.
template <typename T>
class Solver {
  static int64_t padded(int64_t count) { return (count + kVector - 1) / kVector * kVector; }

 public:
  // For problems of up to so many i and j.
  Solver(int64_t most_i, int64_t most_j)
      : costs_(most_i * padded(most_j)),
        buffer_(kRows * most_j),
        least_(most_i),
        at_(most_i),
        u_(most_i),
        v_(padded(most_j)),
        distance_(padded(most_j)),
        j_of_(most_i),
        i_of_(padded(most_j)),
        before_(padded(most_j)),
        is_loaded_(most_i) {}

  // Solves one problem; result[m] becomes the row of column m of the batch's matrix.
  Outcome solve(const Matrix<T>& matrix, int64_t* result) {
    matrix_ = &matrix;
    by_column_ = matrix.columns <= matrix.rows;
    i_count_ = std::min(matrix.rows, matrix.columns);
    j_count_ = std::max(matrix.rows, matrix.columns);
    width_ = padded(j_count_);
    std::fill_n(v_.get(), width_, 0.0);
    std::fill_n(i_of_.get(), j_count_, -1);
    std::fill_n(i_of_.get() + j_count_, width_ - j_count_, 0);
    std::fill_n(is_loaded_.get(), i_count_, false);
    if (!find_least()) return Outcome::kInvalid;
    for (int64_t i = 0; i < i_count_; ++i) {
      u_[i] = least_[i];
      const int64_t j = at_[i];
      if (u_[i] == kInfinity) return Outcome::kInfeasible;
      j_of_[i] = i_of_[j] < 0 ? j : -1;
      if (i_of_[j] < 0) i_of_[j] = i;
    }
    for (int64_t i = 0; i < i_count_; ++i)
      if (j_of_[i] < 0 && !augment(i)) return Outcome::kInfeasible;
    for (int64_t t = 0; t < matrix.columns; ++t)
      result[matrix.chosen[t]] = by_column_ ? j_of_[t] : i_of_[t];
    return Outcome::kSolved;
  }

 private:
  // The least cost of every i and its j; false if a cost is NaN or -inf.
  bool find_least() {
    constexpr T infinity = std::numeric_limits<T>::infinity();
    T nans = 0, lowest = infinity;
    std::fill_n(least_.get(), i_count_, infinity);
    std::fill_n(at_.get(), i_count_, 0);
    for (int64_t n = 0; n < matrix_->rows; n += kRows) {
      const int64_t last = std::min(matrix_->rows, n + kRows);
      const auto [x, stride] = matrix_->lines(n, last, buffer_.get());
      const Index<T> first = static_cast<Index<T>>(n);
      if (by_column_ && last == n + kRows) {
        nans += keep_least<kRows>(x, stride, i_count_, first, least_.get(), at_.get());
        continue;
      }
      for (int64_t k = 0; k < last - n; ++k) {
        const T* row = x + k * stride;
        if (by_column_) {
          nans += keep_least<1>(row, stride, i_count_, first + k, least_.get(), at_.get());
        } else {
          least_[n + k] = least_of(row, j_count_, nans);
          at_[n + k] = first_of(row, j_count_, least_[n + k]);
        }
      }
    }
    for (int64_t i = 0; i < i_count_; ++i) lowest = std::min(lowest, least_[i]);
    return nans == 0 && lowest > -infinity;
  }

  // The costs of i, padded.
  const T* line(int64_t i) {
    T* own = costs_.get() + i * width_;
    if (is_loaded_[i]) return own;
    by_column_ ? matrix_->copy_column(i, own) : matrix_->copy_row(i, own);
    std::fill(own + j_count_, own + width_, std::numeric_limits<T>::infinity());
    is_loaded_[i] = true;
    return own;
  }

  // Matches i = start too; false if it reaches no free j.
  bool augment(int64_t start) {
    std::fill_n(distance_.get(), width_, kInfinity);
    done_.clear();
    double length = 0;
    int64_t j = -1;
    for (int64_t i = start; i >= 0; i = i_of_[j]) {
      length = relax(line(i), width_, length, u_[i], v_.get(), i, distance_.get(), before_.get());
      if (length == kInfinity) return false;
      j = nearest(distance_.get(), i_of_.get(), length, width_);
      if (i_of_[j] < 0) break;
      done_.push_back({j, length, v_[j]});
      distance_[j] = kInfinity;
      v_[j] = -kInfinity;  // any way to it is infinitely long: it is out of the search
    }
    u_[start] += length;
    for (const Done& d : done_) {
      u_[i_of_[d.j]] += length - d.distance;
      v_[d.j] = d.v - (length - d.distance);
    }
    while (j >= 0) {
      i_of_[j] = before_[j];
      std::swap(j, j_of_[before_[j]]);
    }
    return true;
  }

  struct Done {
    int64_t j;
    double distance, v;
  };
  const Matrix<T>* matrix_ = nullptr;
  int64_t i_count_ = 0, j_count_ = 0, width_ = 0;
  bool by_column_ = true;  // i are the columns of the matrix
  Workspace<T> costs_, buffer_, least_;
  Workspace<Index<T>> at_;
  Workspace<double> u_, v_, distance_;
  Workspace<int64_t> j_of_, i_of_, before_;
  Workspace<bool> is_loaded_;  // whether the costs of i are in costs_
  std::vector<Done> done_;
};

template <typename T>
void run(const Tensor& cost, const bool* mask, int64_t* result, std::vector<Outcome>& outcomes) {
  const int64_t rows = cost.size(1), columns = cost.size(2);
  torch::stable::parallel_for(0, cost.size(0), 1, [&](int64_t first, int64_t last) {
    Solver<T> solver(std::min(rows, columns), std::max(rows, columns));
    for (int64_t b = first; b < last; ++b) {
      std::fill_n(result + b * columns, columns, -1);
      outcomes[b] = solver.solve(Matrix<T>(cost, mask, b), result + b * columns);
    }
  });
}

Tensor linear_assignment(Tensor cost, std::optional<Tensor> mask, bool strict) {
  const int64_t problems = cost.size(0);
  Tensor result = torch::stable::new_empty(cost, {problems, cost.size(2)}, ScalarType::Long);
  const Tensor lines = cost.stride(2) == 1 ? cost : torch::stable::contiguous(cost);
  const std::optional<Tensor> flags =
      mask ? std::optional(torch::stable::contiguous(*mask)) : std::nullopt;
  const bool* there = flags ? static_cast<const bool*>(flags->const_data_ptr()) : nullptr;
  int64_t* out = static_cast<int64_t*>(result.mutable_data_ptr());
  std::vector<Outcome> outcomes(problems);
  if (cost.scalar_type() == ScalarType::Double)
    run<double>(lines, there, out, outcomes);
  else
    run<float>(lines, there, out, outcomes);
  for (int64_t b = 0; strict && b < problems; ++b) {
    if (outcomes[b] == Outcome::kSolved) continue;
    // std::invalid_argument reaches Python as ValueError.
    throw std::invalid_argument("cost of problem " + std::to_string(b) +
                                (outcomes[b] == Outcome::kInvalid
                                     ? " must not hold NaN or -inf"
                                     : " is infeasible: +inf forbids every assignment"));
  }
  return result;
}

STABLE_TORCH_LIBRARY_IMPL(fastloss, CPU, m) {
  m.impl("linear_assignment", TORCH_BOX(&linear_assignment));
}

}  // namespace
}  // namespace fastloss::cpu
