// CPU kernels of `segmentation_loss`: the terms from the table of sums, and the gradient of the
// table. Definitions stand in fastloss/reference/segmentation_loss.py; everything is in double.
#include "cpu/segmentation_table.h"

namespace fastloss::cpu {
namespace {

enum class Kind : int64_t { kCrossEntropy, kSoftmaxFocal, kSigmoidFocal, kSoftBce, kRegion, kMcc };

constexpr int64_t kNumbers = 8;  // of a term in `parameters`, its weight first
constexpr double kNormalizer = 1e-6;

// torch.clamp(min=floor): NaN stays.
double at_least(double x, double floor) { return x < floor ? floor : x; }

struct Term {
  Kind kind;
  const double* numbers;  // weight, then those of the kind
  std::vector<double> u, v;

  double weight() const { return numbers[0]; }
  double divisor() const { return numbers[1]; }
  double floor() const { return numbers[2]; }
  double extra() const { return numbers[3]; }  // smoothing or normalized
};

class Table {
 public:
  Table(const Tensor& table, int64_t statistics)
      : groups(table.size(0)),
        classes(table.size(2)),
        options_(statistics, "softmax", true, 0, {}, {}, 0, {}, 0),
        tensor_(torch::stable::contiguous(table)),
        values_(static_cast<const double*>(tensor_.const_data_ptr())),
        total_(options_.columns() * classes) {
    for (int64_t g = 0; g < groups; ++g)
      for (size_t i = 0; i < total_.size(); ++i) total_[i] += values_[g * total_.size() + i];
  }

  const int64_t groups, classes;

  int64_t cells() const { return static_cast<int64_t>(total_.size()); }
  int64_t offset(Statistic s) const { return options_.column(s) * classes; }
  // Column of a group, or summed over the groups.
  const double* of(int64_t group, Statistic s) const {
    return values_ + group * cells() + offset(s);
  }
  const double* total(Statistic s) const { return total_.data() + offset(s); }

 private:
  TableOptions options_;
  Tensor tensor_;
  const double* values_;
  std::vector<double> total_;
};

double weighted(const std::vector<double>& u, const double* column) {
  return dot(u.data(), column, static_cast<int64_t>(u.size()));
}

// Dice, Jaccard or Tversky of one column set.
struct Region {
  const double *overlap, *probability, *target;
  double alpha, beta, smooth, eps;
  bool log;

  Region(const Term& t, const Table& table, int64_t group, bool per_image)
      : overlap(per_image ? table.of(group, kOverlap) : table.total(kOverlap)),
        probability(per_image ? table.of(group, kProbability) : table.total(kProbability)),
        target(per_image ? table.of(group, kTarget) : table.total(kTarget)),
        alpha(t.numbers[1]),
        beta(t.numbers[2]),
        smooth(t.numbers[3]),
        eps(t.numbers[4]),
        log(t.numbers[5] != 0) {}

  double below(int64_t c) const {
    return overlap[c] + alpha * (probability[c] - overlap[c]) + beta * (target[c] - overlap[c]) +
           smooth;
  }
  double score(int64_t c) const { return (overlap[c] + smooth) / at_least(below(c), eps); }
  double loss(int64_t c) const {
    const double r = score(c);
    return (log ? -std::log(at_least(r, eps)) : 1 - r) * (target[c] > 0);
  }
  double mean(const std::vector<double>& u) const {
    double total = 0;
    for (size_t c = 0; c < u.size(); ++c) total += u[c] * loss(c);
    return total / sum(u.data(), static_cast<int64_t>(u.size()));
  }
};

struct Counts {
  double tp, tn, fp, fn, root;

  Counts(const Term& t, const Table& table) {
    const int64_t n = table.classes;
    const double eps = t.numbers[1];
    const double hits = sum(table.total(kProduct), n);
    const double p = sum(table.total(kProbability), n), y = sum(table.total(kTarget), n);
    tp = hits + eps, fp = p - hits + eps, fn = y - hits + eps;
    tn = sum(table.total(kValid), n) - p - y + hits + eps;
    root = std::sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn));
  }
};

// d for class c; only that of sigmoid_focal depends on it.
double divisor(const Term& t, const Table& table, int64_t c) {
  if (t.divisor() >= 0) return t.divisor();
  double d;
  if (t.kind == Kind::kSigmoidFocal)
    d = table.total(kValid)[c];
  else if (t.kind == Kind::kSoftBce)
    d = sum(table.total(kValid), table.classes);
  else
    d = weighted(t.u, table.total(kTarget));
  return at_least(d, t.floor());
}

double value(const Term& t, const Table& table) {
  const int64_t n = table.classes;
  if (t.kind == Kind::kRegion) {
    const bool per_image = t.numbers[7] != 0;
    const int64_t groups = per_image ? table.groups : 1;
    double total = 0;
    for (int64_t g = 0; g < groups; ++g)
      total += std::pow(Region(t, table, g, per_image).mean(t.u), t.numbers[6]);
    return total / static_cast<double>(std::max<int64_t>(groups, 1));
  }
  if (t.kind == Kind::kMcc) {
    const Counts k(t, table);
    return 1 - (k.tp * k.tn - k.fp * k.fn) / k.root;
  }
  if (t.kind == Kind::kSigmoidFocal) {
    double total = 0;
    for (int64_t c = 0; c < n; ++c) {
      double loss = table.total(kSigmoidFocal)[c];
      if (t.extra()) loss /= at_least(table.total(kSigmoidFocalTerm)[c], kNormalizer);
      total += t.u[c] * loss / divisor(t, table, c);
    }
    return total / sum(t.u.data(), n);
  }
  double total;
  if (t.kind == Kind::kCrossEntropy) {
    total = (1 - t.extra()) * weighted(t.u, table.total(kNll));
    if (t.extra())
      total += t.extra() / static_cast<double>(n) * weighted(t.u, table.total(kNegLogProb));
  } else if (t.kind == Kind::kSoftmaxFocal) {
    total = weighted(t.u, table.total(kSoftmaxFocal));
    if (t.extra()) total /= at_least(sum(table.total(kSoftmaxFocalTerm), n), kNormalizer);
  } else {
    total = weighted(t.v, table.total(kBcePositive)) + weighted(t.u, table.total(kBceNegative));
  }
  return total / divisor(t, table, 0);
}

// Adds g times the derivatives of a term. Those by columns summed over the groups are the same in
// every group.
class Slopes {
 public:
  Slopes(const Table& table, double* out) : table_(table), out_(out) {}

  void add(const Term& t, double g) {
    const int64_t n = table_.classes;
    switch (t.kind) {
      case Kind::kRegion:
        return region(t, g);
      case Kind::kMcc:
        return mcc(Counts(t, table_), g);
      case Kind::kCrossEntropy: {
        const double d = g / divisor(t, table_, 0);
        for (int64_t c = 0; c < n; ++c) {
          to_all(kNll, c, d * (1 - t.extra()) * t.u[c]);
          if (t.extra()) to_all(kNegLogProb, c, d * t.extra() / static_cast<double>(n) * t.u[c]);
        }
        return;
      }
      case Kind::kSoftBce: {
        const double d = g / divisor(t, table_, 0);
        for (int64_t c = 0; c < n; ++c) {
          to_all(kBcePositive, c, d * t.v[c]);
          to_all(kBceNegative, c, d * t.u[c]);
        }
        return;
      }
      case Kind::kSoftmaxFocal:
        return softmax_focal(t, g / divisor(t, table_, 0));
      case Kind::kSigmoidFocal:
        return sigmoid_focal(t, g / sum(t.u.data(), n));
    }
  }

 private:
  void to(int64_t group, Statistic s, int64_t c, double g) {
    out_[group * table_.cells() + table_.offset(s) + c] += g;
  }
  void to_all(Statistic s, int64_t c, double g) {
    for (int64_t i = 0; i < table_.groups; ++i) to(i, s, c, g);
  }

  void softmax_focal(const Term& t, double g) {
    const int64_t n = table_.classes;
    const double terms = t.extra() ? sum(table_.total(kSoftmaxFocalTerm), n) : 1;
    const double k = t.extra() ? at_least(terms, kNormalizer) : 1;
    const double loss = weighted(t.u, table_.total(kSoftmaxFocal));
    for (int64_t c = 0; c < n; ++c) {
      to_all(kSoftmaxFocal, c, g * t.u[c] / k);
      if (t.extra()) to_all(kSoftmaxFocalTerm, c, -g * loss / (k * k) * (terms >= kNormalizer));
    }
  }
  void sigmoid_focal(const Term& t, double g) {
    for (int64_t c = 0; c < table_.classes; ++c) {
      const double of_class = g * t.u[c] / divisor(t, table_, c);
      if (!t.extra()) {
        to_all(kSigmoidFocal, c, of_class);
        continue;
      }
      const double terms = table_.total(kSigmoidFocalTerm)[c], k = at_least(terms, kNormalizer);
      to_all(kSigmoidFocal, c, of_class / k);
      to_all(kSigmoidFocalTerm, c,
             -of_class * table_.total(kSigmoidFocal)[c] / (k * k) * (terms >= kNormalizer));
    }
  }
  void region(const Term& t, double g) {
    const bool per_image = t.numbers[7] != 0;
    const double gamma = t.numbers[6], weights = sum(t.u.data(), table_.classes);
    for (int64_t i = 0; i < (per_image ? table_.groups : 1); ++i) {
      const Region r(t, table_, i, per_image);
      const double mean = r.mean(t.u);
      // The slope of a fractional power at 0 is infinite: of a perfect mean it counts as 0.
      const double power = mean == 0 && gamma < 1 ? 0 : gamma * std::pow(mean, gamma - 1);
      const double of_mean = g * power / static_cast<double>(per_image ? table_.groups : 1);
      for (int64_t c = 0; c < table_.classes; ++c) {
        const double below = r.below(c), clamped = at_least(below, r.eps), score = r.score(c);
        double of_score = -of_mean * t.u[c] / weights * (r.target[c] > 0);
        if (r.log) of_score *= (score >= r.eps) / at_least(score, r.eps);
        const double of_below = -of_score * score / clamped * (below >= r.eps);
        const auto give = [&](Statistic s, double slope) {
          per_image ? to(i, s, c, slope) : to_all(s, c, slope);
        };
        give(kOverlap, of_score / clamped + of_below * (1 - r.alpha - r.beta));
        give(kProbability, of_below * r.alpha);
        give(kTarget, of_below * r.beta);
      }
    }
  }
  void mcc(const Counts& k, double g) {
    const double half = (k.tp * k.tn - k.fp * k.fn) / k.root / 2;
    const double a = half / (k.tp + k.fp), b = half / (k.tp + k.fn);
    const double c = half / (k.tn + k.fp), d = half / (k.tn + k.fn);
    const double of_tp = a + b - k.tn / k.root, of_tn = c + d - k.tp / k.root;
    const double of_fp = a + c + k.fn / k.root, of_fn = b + d + k.fp / k.root;
    for (int64_t i = 0; i < table_.classes; ++i) {
      to_all(kProduct, i, g * (of_tp + of_tn - of_fp - of_fn));
      to_all(kProbability, i, g * (of_fp - of_tn));
      to_all(kTarget, i, g * (of_fn - of_tn));
    }
  }

  const Table& table_;
  double* out_;
};

// The terms; class_weights is (T, 2, C) or missing.
std::vector<Term> terms_of(const Table& table, const std::optional<Tensor>& class_weights,
                           const std::vector<int64_t>& kinds,
                           const std::vector<double>& parameters) {
  std::vector<Term> terms;
  std::optional<Source<double>> weights;
  if (class_weights) weights.emplace(*class_weights);
  const int64_t n = table.classes;
  for (size_t i = 0; i < kinds.size(); ++i) {
    Term t{static_cast<Kind>(kinds[i]), parameters.data() + i * kNumbers, std::vector<double>(n, 1),
           std::vector<double>(n, 1)};
    for (int row = 0; weights && row < 2; ++row) {
      std::vector<double>& to = row ? t.v : t.u;
      const double* from = weights->load((2 * static_cast<int64_t>(i) + row) * n, n, to.data());
      std::copy(from, from + n, to.data());
    }
    terms.push_back(std::move(t));
  }
  return terms;
}

Tensor segmentation_loss(Tensor table, std::optional<Tensor> class_weights, int64_t statistics,
                         std::vector<int64_t> kinds, std::vector<double> parameters,
                         ScalarType dtype) {
  const Table sums(table, statistics);
  std::vector<double> values(1);
  for (const Term& t : terms_of(sums, class_weights, kinds, parameters)) {
    values.push_back(t.weight() * value(t, sums));
    values[0] += values.back();
  }
  const int64_t count = static_cast<int64_t>(values.size());
  Tensor result = torch::stable::new_empty(table, {count}, dtype);
  Sink(result).store<double>(0, count, values.data());
  return result;
}

Tensor segmentation_loss_backward(Tensor grad, Tensor table, std::optional<Tensor> class_weights,
                                  int64_t statistics, std::vector<int64_t> kinds,
                                  std::vector<double> parameters, ScalarType, int64_t) {
  const Table sums(table, statistics);
  const int64_t count = static_cast<int64_t>(kinds.size()) + 1;
  std::vector<double> buffer(count);
  const Source<double> source(grad);  // keeps the copy of a strided tensor
  const double* g = source.load(0, count, buffer.data());
  Tensor result = torch::stable::new_zeros(table, table.sizes());
  Slopes slopes(sums, static_cast<double*>(result.mutable_data_ptr()));
  const std::vector<Term> terms = terms_of(sums, class_weights, kinds, parameters);
  for (size_t i = 0; i < terms.size(); ++i)
    slopes.add(terms[i], terms[i].weight() * (g[0] + g[i + 1]));
  return result;
}

STABLE_TORCH_LIBRARY_IMPL(fastloss, CPU, m) {
  m.impl("segmentation_loss", TORCH_BOX(&segmentation_loss));
  m.impl("segmentation_loss_backward", TORCH_BOX(&segmentation_loss_backward));
}

}  // namespace
}  // namespace fastloss::cpu
