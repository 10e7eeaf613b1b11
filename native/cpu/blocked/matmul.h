// Batched matrix products: y (+)= op(a) op(b) + bias for each pair of matrices.
//
//   matmul  the tasks of a frozen linear layer, for each pair. Tasks: batches x tasks of one product
//
// op(b) is the weight: [n, k] as W if it is stored transposed, and [k, n] as the weight of dx otherwise. op(a) is the
// activation; if it is stored transposed, some of its columns are packed at a time. The bits are the same as for one
// product.
#pragma once

#include "cpu/blocked/linear.h"

namespace lily::cpu {
namespace blocked {
namespace {

template <void (*kProduct)(const LinearPass &, int64_t task, float *scratch)>
void matmul(const MatmulPass &pass, int64_t task, float *scratch) {
  const lily_matmul &call = *pass.call;
  const int64_t batch = task / pass.product_tasks();
  const int64_t outer = batch / call.problem.inner, inner = batch % call.problem.inner;
  lily_linear product = pass.product;
  product.x = submatrix(call.a, 0, outer * call.a_strides[0] + inner * call.a_strides[1]);
  product.weight = submatrix(call.b, 0, outer * call.b_strides[0] + inner * call.b_strides[1]);
  product.y = submatrix(call.y, batch * call.problem.m, 0);
  LinearPass linear = pass.linear;
  linear.call = &product;
  kProduct(linear, task % pass.product_tasks(), scratch);
}

}  // namespace
}  // namespace blocked
}  // namespace lily::cpu
