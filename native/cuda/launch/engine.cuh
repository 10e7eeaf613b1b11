// One engine: each translation unit that includes this file instantiates its kernels.
#pragma once

#include "cuda/launch/launch_backward.cuh"
#include "cuda/launch/launch_forward.cuh"

namespace lily::cuda {

template <typename Engine>
lily_status run_forward(const ForwardCalls &list, Launcher &launcher) {
  return for_each_step(list.plans, static_cast<int>(list.calls.size()),
                       [&](Members members) { return Forward<Engine>::run(list, members, launcher); });
}

template <typename Engine>
lily_status run_backward(const BackwardCalls &list, Launcher &launcher) {
  return for_each_step(list.plans, static_cast<int>(list.calls.size()),
                       [&](Members members) { return Backward<Engine>::run(list, members, launcher); });
}

template <typename Engine>
lily_status run_linear(const lily_linear &given, const LinearPlan &plan, Launcher &launcher) {
  const lily_linear_problem &problem = given.problem;
  using Scalar = typename Engine::Scalar;
  const Operand x = operand(given.x), weight = operand(given.weight);
  Cast casts = {};
  add_cast<Scalar>(casts, given.workspace, plan.x_cast, x);
  add_cast<Scalar>(casts, given.workspace, plan.weight_cast, weight);
  for (const Launch &planned : plan.casts) LILY_TRY(launch_cast(planned, casts, launcher));
  LargeProduct call = {};
  call.x = cast_operand<Scalar>(given.workspace, plan.x_cast, x);
  call.weight = cast_operand<Scalar>(given.workspace, plan.weight_cast, weight);
  call.tokens = static_cast<int>(problem.tokens);
  call.depth = static_cast<int>(problem.transposed ? problem.d_out : problem.d_in);
  call.columns = static_cast<int>(problem.transposed ? problem.d_in : problem.d_out);
  call.scale = 1.0f;
  call.bias = operand(given.bias);
  call.y = output<Scalar>(given.y, call.columns);
  return launch_product<Engine>(plan.launch, plan.product, problem.transposed != 0, call, launcher);
}

template <typename Engine>
void load_kernels(KernelLoader &load) {
  using Rows = Tiles<Engine>;
  for_each_row(typename Rows::Shrink{}, [&](auto row) {
    load(forward_shrink<decltype(row)>);
    load(forward_shrink_list<decltype(row)>);
  });
  for_each_row(typename Rows::Expand{}, [&](auto row) {
    load(forward_expand<decltype(row)>);
    load(forward_expand_list<decltype(row)>);
  });
  for_each_row(typename Rows::Mix{}, [&](auto row) {
    load(forward_mix<decltype(row)>);
    load(forward_mix_list<decltype(row)>);
  });
  for_each_row(typename Rows::Decode{}, [&](auto row) {
    load(forward_decode<decltype(row)>);
    load(forward_decode_list<decltype(row)>);
  });
  for_each_row(typename Rows::Dy{}, [&](auto row) {
    load(backward_dy<decltype(row)>);
    load(backward_dy_list<decltype(row)>);
  });
  for_each_row(typename Rows::Once{}, [&](auto row) {
    load(backward_dy_once<decltype(row)>);
    load(backward_dy_once_list<decltype(row)>);
  });
  for_each_row(typename Rows::X{}, [&](auto row) {
    load(backward_x<decltype(row)>);
    load(backward_x_list<decltype(row)>);
  });
  for_each_row(typename Rows::Large{}, [&](auto row) {
    load(large_product<decltype(row), false>);
    load(large_product<decltype(row), true>);
    load(large_outer<decltype(row)>);
  });
}

template <typename Engine>
constexpr EngineFunctions kFunctionsOf = {run_forward<Engine>, run_backward<Engine>, run_linear<Engine>,
                                          load_kernels<Engine>};

}  // namespace lily::cuda
