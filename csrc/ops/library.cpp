// Every operator's schema. s_ij = scale <x_i, y_j>, rows x, columns y; all statistics are float64, in nats.
//
// Pairs that are no negatives, in every operator: target [n] (column of the row's positive), x_label [n] and y_label
// [m] (same label), candidate_log_weight [m] (v_j, added to the negatives' scores; -inf removes the column).
// tf32: a GPU may round the factors of float32 products to 11 bits.
#include <torch/csrc/stable/library.h>

//
// Joint critics: s_ij = <w, relu(a_i + b_j)>, or <w, relu(W1 relu(a_i + b_j) + b1)> with an inner layer; a [n, h] and
// b [m, h] are the first layer's two parts, w = last_weight. Gradients that a critic has no parameters for are empty.
#define MI_EXCLUSIONS "Tensor? target, Tensor? x_label, Tensor? y_label, Tensor? candidate_log_weight"
#define MI_JOINT "Tensor a, Tensor b, Tensor? inner_weight, Tensor? inner_bias, Tensor last_weight"
#define MI_JOINT_GRADIENTS "Tensor da, Tensor db, Tensor dinner_weight, Tensor dinner_bias, Tensor dlast_weight"

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

  // u = z / r, r = max(|z|, shortest), for rows z [..., d], and dz = (du - u <u, du> [r > shortest]) / r.
  library.def("unit_rows(Tensor z, float shortest) -> (Tensor unit, Tensor length)");
  library.def("unit_rows_gradient(Tensor unit, Tensor length, Tensor upstream, float shortest) -> Tensor");

  // The gradients dx, dy that came with a loss, times its own gradient, and the positives' part, from theirs. Those
  // that are empty stay so.
  library.def(
      "kept_gradient(Tensor x, Tensor y, Tensor scale, Tensor target, Tensor dx, Tensor dy, "
      "Tensor grad_loss, Tensor grad_positive) -> (Tensor dx_total, Tensor dy_total)");

  // Gathered scores, s_ik = scale <x_i, y_ik> (+ bias): y_ik = y[index_ik], index [n, m] into a bank y [V, d]; without
  // index the negatives themselves, y [n, m, d].
#define MI_GATHERED "Tensor x, Tensor y, Tensor? index, Tensor scale"

  // negative_lse_i = log sum_k e^{s_ik}.
  library.def("gathered_lse(" MI_GATHERED ") -> Tensor");

  // The same of clamp(s_ik + bias, -clip, clip).
  library.def("gathered_clipped_lse(" MI_GATHERED ", Tensor bias, float clip) -> Tensor");

  // The loss of dot_fused with positives beside the candidates, and its gradients.
  library.def("gathered_fused(" MI_GATHERED
              ", Tensor positive, float positive_log_weight, float negative_log_weight, bool global_partition, "
              "bool candidate_gradient) -> (Tensor loss, Tensor dx, Tensor dy, Tensor dscale, Tensor dpositive)");

  // w_ik = ga_i e^{s_ik - a_i};  dx_i = scale sum_k w_ik y_ik,  dy_ik = scale w_ik x_i, added up where y_ik is one row.
  library.def("gathered_gradient(" MI_GATHERED
              ", Tensor negative_lse, Tensor grad_negative_lse, bool candidate_gradient) -> "
              "(Tensor dx, Tensor dy, Tensor dscale)");

  // value = sum_ik softplus(s_ik + bias), and its gradients (empty unless asked for).
  library.def("gathered_softplus_sum(" MI_GATHERED
              ", Tensor bias, bool query_gradient, bool candidate_gradient) -> "
              "(Tensor value, Tensor dx, Tensor dy, Tensor dscale, Tensor dbias)");

  // Statistics as of dot_statistics, dot_clipped_lse.
  library.def("joint_statistics(" MI_JOINT ", " MI_EXCLUSIONS
              ", bool columns) -> (Tensor positive, Tensor negative_lse, Tensor column_negative_lse)");
  library.def("joint_clipped_lse(" MI_JOINT ", Tensor bias, " MI_EXCLUSIONS ", float clip) -> Tensor");

  // L as of dot_fused, target needed, and its gradients.
  library.def("joint_fused(" MI_JOINT ", " MI_EXCLUSIONS
              ", float positive_log_weight, float negative_log_weight, bool global_partition) -> "
              "(Tensor loss, " MI_JOINT_GRADIENTS ")");

  // From G_ij = ga_i e^{s_ij - a_i} + gc_j e^{s_ij - c_j}, and grad_positive where j = target_i.
  library.def("joint_gradient(" MI_JOINT ", " MI_EXCLUSIONS
              ", Tensor negative_lse, Tensor column_negative_lse, Tensor grad_positive, Tensor grad_negative_lse, "
              "Tensor grad_column_negative_lse) -> (" MI_JOINT_GRADIENTS ")");

  // value = sum over negatives of e^{v_j} softplus(s_ij + bias), its gradients (empty unless asked for).
  library.def("joint_softplus_sum(" MI_JOINT ", Tensor bias, " MI_EXCLUSIONS
              ", bool gradient) -> (Tensor value, " MI_JOINT_GRADIENTS ", Tensor dbias)");

  // s [n, m], for parts of a matrix, and the gradients from upstream = dL/ds.
  library.def("joint_matrix(" MI_JOINT ") -> Tensor");
  library.def("joint_matrix_gradient(" MI_JOINT ", Tensor upstream) -> (" MI_JOINT_GRADIENTS ")");

  // What is read beside a loss: the entropy of softmax(s + v) over a row's negatives, and the positive's rank, the
  // number of negatives with s_ij >= p_i (those at -inf never count). external_positive [n, d]: positives beside the
  // candidates.
  library.def("dot_ranking(Tensor x, Tensor y, Tensor scale, " MI_EXCLUSIONS
              ", Tensor? external_positive, bool tf32=False) -> "
              "(Tensor positive, Tensor negative_lse, Tensor entropy, Tensor rank)");
  // positive [n, d]: vectors beside the negatives.
  library.def("gathered_ranking(" MI_GATHERED
              ", Tensor positive) -> (Tensor negative_lse, Tensor entropy, Tensor rank)");
  // target needed.
  library.def("joint_ranking(" MI_JOINT ", " MI_EXCLUSIONS
              ") -> (Tensor positive, Tensor negative_lse, Tensor entropy, Tensor rank)");

  // Two query sets on the same candidates, s' = scale1 <x1_i, y_j>, s'' = scale2 <x2_i, y_j>. Over the negatives of a
  // row: log-sum-exps of s' + v, of s'' + v and of s' + s'' + v; and the positives.
  library.def("importance_statistics(Tensor x1, Tensor x2, Tensor y, Tensor scale1, Tensor scale2, " MI_EXCLUSIONS
              ", bool tf32=False) -> (Tensor positive1, Tensor positive2, Tensor negative_lse1, Tensor negative_lse2, "
              "Tensor joint_lse)");

  // With ce(p, a) = softplus(a - p): terms = sums over rows of ce(p', a'), ce(p'', a'') and
  // ce(p', log_mass_i + a* - a''), loss = their weighted sum, and its gradients; the weights softmax(s'' + v) of the
  // last term have none if detach_weights.
  library.def("importance_fused(Tensor x1, Tensor x2, Tensor y, Tensor scale1, Tensor scale2, " MI_EXCLUSIONS
              ", Tensor? external_positive1, Tensor? external_positive2, Tensor log_mass, float weight1, "
              "float weight2, float weight_joint, bool detach_weights, bool candidate_gradient, bool tf32=False) -> "
              "(Tensor loss, Tensor terms, Tensor dx1, Tensor dx2, Tensor dy, Tensor dscale1, Tensor dscale2, "
              "Tensor dpositive1, Tensor dpositive2)");

  // For any upstream gradient of the statistics (empty: zero); with detach_weights, a* is a function of s' alone.
  library.def("importance_gradient(Tensor x1, Tensor x2, Tensor y, Tensor scale1, Tensor scale2, " MI_EXCLUSIONS
              ", Tensor positive1, Tensor positive2, Tensor negative_lse1, Tensor negative_lse2, Tensor joint_lse, "
              "Tensor grad_positive1, Tensor grad_positive2, Tensor grad_negative_lse1, Tensor grad_negative_lse2, "
              "Tensor grad_joint_lse, bool detach_weights, bool candidate_gradient, bool tf32=False) -> "
              "(Tensor dx1, Tensor dx2, Tensor dy, Tensor dscale1, Tensor dscale2)");
}
