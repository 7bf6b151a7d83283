// Every operator's schema. s_ij = scale <x_i, y_j>, rows x, columns y; all statistics are float64, in nats.
//
// Pairs that are no negatives, in every operator: target [n] (column of the row's positive), x_label [n] and y_label
// [m] (same label), candidate_log_weight [m] (v_j, added to the negatives' scores; -inf removes the column).
// tf32: a GPU may round the factors of float32 products to 11 bits.
#include <torch/csrc/stable/library.h>

#define MI_EXCLUSIONS "Tensor? target, Tensor? x_label, Tensor? y_label, Tensor? candidate_log_weight"

STABLE_TORCH_LIBRARY(mi_ext, library) {
  // positive_i = s_{i,target_i};  negative_lse_i = log sum_{j negative} e^{s_ij + v_j};  column_negative_lse_j: down a
  // column, empty unless `columns`.
  library.def("dot_statistics(Tensor x, Tensor y, Tensor scale, " MI_EXCLUSIONS
              ", bool columns, bool tf32=False) -> (Tensor positive, Tensor negative_lse, Tensor column_negative_lse)");

  // negative_lse of clamp(s_ij + bias, -clip, clip).
  library.def("dot_clipped_lse(Tensor x, Tensor y, Tensor scale, Tensor bias, " MI_EXCLUSIONS
              ", float clip, bool tf32=False) -> Tensor");

  // L = sum_i [a + softplus(b + negative_lse_i - p_i - a)], or, with global_partition,
  // L = log sum_i (e^{p_i + a} + e^{negative_lse_i + b}), and its gradients.
  // p: the positives, external_positive [n] where there is no target. dy is empty unless candidate_gradient.
  library.def(
      "dot_fused(Tensor x, Tensor y, Tensor scale, " MI_EXCLUSIONS
      ", Tensor? external_positive, float positive_log_weight, float negative_log_weight, bool global_partition, "
      "bool candidate_gradient, bool tf32=False) -> "
      "(Tensor loss, Tensor positive, Tensor dx, Tensor dy, Tensor dscale, Tensor dpositive)");

  // w_ij = ga_i e^{s_ij - a_i} + gc_j e^{s_ij - c_j};  dx = scale w y,  dy = scale w^T x, and the positives' part.
  library.def("dot_gradient(Tensor x, Tensor y, Tensor scale, " MI_EXCLUSIONS
              ", Tensor positive, Tensor negative_lse, Tensor column_negative_lse, Tensor grad_positive, "
              "Tensor grad_negative_lse, Tensor grad_column_negative_lse, bool candidate_gradient, bool tf32=False) -> "
              "(Tensor dx, Tensor dy, Tensor dscale)");

  // value = sum over negatives of e^{v_j} softplus(s_ij + bias), its gradients (empty unless asked for), and the
  // positives.
  library.def("dot_softplus_sum(Tensor x, Tensor y, Tensor scale, Tensor bias, " MI_EXCLUSIONS
              ", bool query_gradient, bool candidate_gradient, bool tf32=False) -> "
              "(Tensor value, Tensor positive, Tensor dx, Tensor dy, Tensor dscale, Tensor dbias)");
}
