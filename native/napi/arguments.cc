#include "napi/arguments.h"

#include "core/problem.h"

namespace lily::napi {

Arguments::Arguments(const Napi::CallbackInfo &info, const char *const *slot_names, int slot_count)
    : info_(info),
      slot_names_(slot_names),
      numbers_(static_cast<const double *>(array_memory(
          info.Env(), info[0], call_field::kCount + slot_count * slot_field::kCount, sizeof(double), "descriptor"))),
      operands_{info.Env(), &available_backend(info.Env(), numbers_[call_field::kBackend]), 0} {
  using namespace call_field;
  problem_.tokens = whole(kTokens);
  problem_.d_in = whole(kDIn);
  problem_.d_out = whole(kDOut);
  problem_.rank = whole(kRank);
  problem_.experts = whole(kExperts);
  problem_.groups = whole(kGroups);
  problem_.routing = static_cast<int32_t>(whole(kRouting));
  problem_.pool = static_cast<int32_t>(whole(kPool));
  problem_.activation = static_cast<int32_t>(whole(kActivation));
  problem_.precision = static_cast<int32_t>(whole(kPrecision));
  problem_.activation_dtype = static_cast<int32_t>(whole(kActivationDtype));
  problem_.parameter_dtype = static_cast<int32_t>(whole(kParameterDtype));
  problem_.scaling = static_cast<float>(numbers_[kScaling]);
  problem_.device = static_cast<int32_t>(whole(kDevice));
  operands_.device = problem_.device;
  if (const char *wrong = problem_error(problem_)) throw make_error(info.Env(), "ERR_LILY_ARGUMENT", wrong);
}

bool Arguments::has(int slot) const {
  const Napi::Value value = info_[slot + 1];
  return !value.IsNull() && !value.IsUndefined();
}

lily_matrix Arguments::matrix(int slot, int64_t rows, int64_t columns) const {
  return operands_.matrix(info_[slot + 1], slot_numbers(slot), rows, columns, slot_names_[slot]);
}

lily_matrix Arguments::matrix_if_given(int slot, int64_t rows, int64_t columns) const {
  return has(slot) ? matrix(slot, rows, columns) : lily_matrix{};
}

void *Arguments::array(int slot, int64_t count, int64_t element_bytes) const {
  const int64_t offset = whole_number(info_.Env(), slot_numbers(slot)[slot_field::kByteOffset], "byteOffset");
  return operands_.array(info_[slot + 1], offset, count, element_bytes, slot_names_[slot]);
}

void *Arguments::array_if_given(int slot, int64_t count, int64_t element_bytes) const {
  return has(slot) ? array(slot, count, element_bytes) : nullptr;
}

lily_tokens Arguments::tokens(int mask_slot, int offsets_slot) const {
  lily_tokens tokens = {};
  tokens.mask = static_cast<const uint8_t *>(array_if_given(mask_slot, problem_.tokens, 1));
  if (!may_have_groups(problem_)) return tokens;
  if (!has(offsets_slot) && problem_.routing == LILY_ROUTING_FIXED && problem_.groups == 1) return tokens;
  const auto *offsets = static_cast<const int32_t *>(array(offsets_slot, problem_.groups + 1, sizeof(int32_t)));
  tokens.sequence_offsets = offsets;
  if (&backend() != lily_cpu_backend()) return tokens;  // in device memory: the kernels clamp them
  bool ascends = offsets[0] == 0 && offsets[problem_.groups] == problem_.tokens;
  for (int64_t group = 0; group < problem_.groups; ++group) ascends = ascends && offsets[group] <= offsets[group + 1];
  if (!ascends) {
    throw make_error(info_.Env(), "ERR_LILY_ARGUMENT", "sequenceOffsets do not ascend from 0 to the number of tokens");
  }
  return tokens;
}

lily_forward read_forward(const Arguments &arguments) {
  using namespace forward_slot;
  const lily_problem &problem = arguments.problem();
  const bool lora = problem.routing == LILY_ROUTING_NONE;
  lily_forward call = {};
  call.problem = problem;
  call.stream = arguments.stream();
  call.tokens = arguments.tokens(kMask, kSequenceOffsets);
  call.x = arguments.matrix(kX, problem.tokens, problem.d_in);
  call.a = arguments.matrix(kA, problem.rank, problem.d_in);
  if (has_router(problem)) call.router = arguments.matrix(kRouter, problem.experts, problem.rank);
  call.b = lora ? arguments.matrix(kB, problem.d_out, problem.rank)
                : arguments.matrix(kB, problem.experts * problem.rank, problem.d_out);
  call.y = arguments.matrix(kY, problem.tokens, problem.d_out);
  call.hidden = arguments.array_if_given(kHidden, problem.tokens * problem.rank, dtype_bytes(hidden_dtype(problem)));
  call.probabilities =
      static_cast<float *>(arguments.array_if_given(kProbabilities, problem.tokens * problem.experts, sizeof(float)));
  if (has_weights(problem)) {
    const int64_t count = problem.groups * problem.experts;
    call.weights = static_cast<float *>(problem.routing == LILY_ROUTING_FIXED
                                            ? arguments.array(kWeights, count, sizeof(float))
                                            : arguments.array_if_given(kWeights, count, sizeof(float)));
  }
  return call;
}

lily_backward read_backward(const Arguments &arguments) {
  using namespace backward_slot;
  const lily_problem &problem = arguments.problem();
  const bool lora = problem.routing == LILY_ROUTING_NONE;
  const int64_t b_rows = lora ? problem.d_out : problem.experts * problem.rank;
  const int64_t b_columns = lora ? problem.rank : problem.d_out;
  lily_backward call = {};
  call.problem = problem;
  call.stream = arguments.stream();
  call.tokens = arguments.tokens(kMask, kSequenceOffsets);
  call.dy = arguments.matrix(kDy, problem.tokens, problem.d_out);
  call.x = arguments.matrix(kX, problem.tokens, problem.d_in);
  call.a = arguments.matrix(kA, problem.rank, problem.d_in);
  call.b = arguments.matrix(kB, b_rows, b_columns);
  call.hidden = arguments.array(kHidden, problem.tokens * problem.rank, dtype_bytes(hidden_dtype(problem)));
  call.dx = arguments.matrix_if_given(kDx, problem.tokens, problem.d_in);
  call.da = arguments.matrix_if_given(kDa, problem.rank, problem.d_in);
  if (has_router(problem)) {
    call.router = arguments.matrix(kRouter, problem.experts, problem.rank);
    call.d_router = arguments.matrix_if_given(kDRouter, problem.experts, problem.rank);
  }
  if (keeps_probabilities(problem)) {
    call.probabilities =
        static_cast<float *>(arguments.array(kProbabilities, problem.tokens * problem.experts, sizeof(float)));
  }
  if (has_weights(problem)) {
    call.weights = static_cast<float *>(arguments.array(kWeights, problem.groups * problem.experts, sizeof(float)));
  }
  if (arguments.has(kDeferredDb) && !lora) {
    call.deferred_db = static_cast<float *>(
        arguments.array(kDeferredDb, deferred_partials(problem) * problem.rank * problem.d_out, sizeof(float)));
  } else {
    call.db = arguments.matrix_if_given(kDb, b_rows, b_columns);
  }
  return call;
}

}  // namespace lily::napi
