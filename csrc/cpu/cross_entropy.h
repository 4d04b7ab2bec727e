// The gradient of softmax cross entropy, which other losses of pixels have too.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <optional>

namespace fastloss::cpu {

// `grad` (N, P) times the gradient of -ln p_y to the logits (N, C, P); 0 where `grad` is 0.
torch::stable::Tensor nll_backward(const torch::stable::Tensor& grad,
                                   const torch::stable::Tensor& logits,
                                   const torch::stable::Tensor& target,
                                   std::optional<int64_t> ignore_index);

}  // namespace fastloss::cpu
