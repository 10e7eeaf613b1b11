#include "napi/arguments.h"

#include <algorithm>
#include <string>

#include "core/problem.h"
#include "lily/cpu.h"

namespace lily::napi {

static_assert(forward_slot::kCount <= backward_slot::kCount, "numbers_ has room for the slots of backward");

Arguments::Arguments(const Napi::CallbackInfo &info, const char *const *slot_names, int slot_count)
    : info_(info), slot_names_(slot_names), numbers_{}, operands_{info.Env(), nullptr, 0} {
  using namespace call_field;
  read_numbers(info.Env(), info[0], call_field::kCount + slot_count * slot_field::kCount, numbers_.data());
  operands_.backend = &available_backend(info.Env(), numbers_[kBackend]);
  operands_.device = usable_device_of(info.Env(), *operands_.backend, numbers_[kDevice]);
  problem_.tokens = whole(kTokens);
  problem_.d_in = whole(kDIn);
  problem_.d_out = whole(kDOut);
  problem_.rank = whole(kRank);
  problem_.experts = whole(kExperts);
  problem_.groups = whole(kGroups);
  problem_.routing = choice(kRouting);
  problem_.pool = choice(kPool);
  problem_.activation = choice(kActivation);
  problem_.precision = choice(kPrecision);
  problem_.activation_dtype = choice(kActivationDtype);
  problem_.parameter_dtype = choice(kParameterDtype);
  problem_.scaling = static_cast<float>(numbers_[kScaling]);
  problem_.device = operands_.device;
  if (const char *wrong = problem_error(problem_)) throw make_error(info.Env(), "ERR_LILY_ARGUMENT", wrong);
}

bool Arguments::has(int slot) const {
  const napi_valuetype type = info_[slot + 1].Type();
  return type != napi_null && type != napi_undefined;
}

lily_matrix Arguments::matrix(int slot, int64_t rows, int64_t columns, int32_t dtype, int32_t other_dtype) const {
  const lily_matrix matrix = operands_.matrix(info_[slot + 1], slot_numbers(slot), rows, columns, slot_names_[slot]);
  if (matrix.dtype == dtype || matrix.dtype == other_dtype) return matrix;
  throw make_error(info_.Env(), "ERR_LILY_DTYPE",
                   std::string(slot_names_[slot]) + " has another dtype than the call gives its operands");
}

lily_matrix Arguments::activations(int slot, int64_t rows, int64_t columns) const {
  return matrix(slot, rows, columns, problem_.activation_dtype, problem_.activation_dtype);
}

lily_matrix Arguments::activations_if_given(int slot, int64_t rows, int64_t columns) const {
  return has(slot) ? activations(slot, rows, columns) : lily_matrix{};
}

lily_matrix Arguments::parameter(int slot, int64_t rows, int64_t columns) const {
  return matrix(slot, rows, columns, problem_.parameter_dtype, problem_.parameter_dtype);
}

lily_matrix Arguments::gradient_if_given(int slot, int64_t rows, int64_t columns) const {
  return has(slot) ? matrix(slot, rows, columns, problem_.parameter_dtype, LILY_FLOAT32) : lily_matrix{};
}

void *Arguments::array(int slot, int64_t count, int64_t element_bytes) const {
  const int64_t offset = whole_number(info_.Env(), slot_numbers(slot)[slot_field::kByteOffset], "byteOffset");
  return operands_.array(info_[slot + 1], offset, count, element_bytes, slot_names_[slot]);
}

void *Arguments::array_if_given(int slot, int64_t count, int64_t element_bytes) const {
  return has(slot) ? array(slot, count, element_bytes) : nullptr;
}

lily_tokens Arguments::tokens(int mask_slot, int offsets_slot) {
  lily_tokens tokens = {};
  tokens.mask = static_cast<const uint8_t *>(array_if_given(mask_slot, problem_.tokens, 1));
  if (!may_have_groups(problem_)) return tokens;
  if (!has(offsets_slot) && problem_.routing == LILY_ROUTING_FIXED && problem_.groups == 1) return tokens;
  const int64_t count = problem_.groups + 1;
  tokens.sequence_offsets = static_cast<const int32_t *>(array(offsets_slot, count, sizeof(int32_t)));
  if (&backend() != lily_cpu_backend()) return tokens;  // in device memory: the kernels clamp what they read
  // Kernels take addresses from the offsets, and other threads could change them during the call.
  offsets_.assign(tokens.sequence_offsets, tokens.sequence_offsets + count);
  tokens.sequence_offsets = offsets_.data();
  if (offsets_.front() != 0 || offsets_.back() != problem_.tokens ||
      !std::is_sorted(offsets_.begin(), offsets_.end())) {
    throw make_error(info_.Env(), "ERR_LILY_ARGUMENT", "sequenceOffsets do not ascend from 0 to the number of tokens");
  }
  return tokens;
}

lily_forward read_forward(Arguments &arguments) {
  using namespace forward_slot;
  const lily_problem &problem = arguments.problem();
  const bool lora = problem.routing == LILY_ROUTING_NONE;
  lily_forward call = {};
  call.problem = problem;
  call.stream = arguments.stream();
  call.tokens = arguments.tokens(kMask, kSequenceOffsets);
  if (call.tokens.sequence_offsets != nullptr)
    call.unchecked_offsets =
        static_cast<int32_t *>(arguments.array_if_given(kUncheckedOffsets, problem.groups + 1, sizeof(int32_t)));
  call.x = arguments.activations(kX, problem.tokens, problem.d_in);
  call.a = arguments.parameter(kA, problem.rank, problem.d_in);
  if (has_router(problem)) call.router = arguments.parameter(kRouter, problem.experts, problem.rank);
  call.b = lora ? arguments.parameter(kB, problem.d_out, problem.rank)
                : arguments.parameter(kB, problem.experts * problem.rank, problem.d_out);
  call.y = arguments.activations(kY, problem.tokens, problem.d_out);
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

lily_backward read_backward(Arguments &arguments) {
  using namespace backward_slot;
  const lily_problem &problem = arguments.problem();
  const bool lora = problem.routing == LILY_ROUTING_NONE;
  const int64_t b_rows = lora ? problem.d_out : problem.experts * problem.rank;
  const int64_t b_columns = lora ? problem.rank : problem.d_out;
  lily_backward call = {};
  call.problem = problem;
  call.stream = arguments.stream();
  call.tokens = arguments.tokens(kMask, kSequenceOffsets);
  call.dy = arguments.activations(kDy, problem.tokens, problem.d_out);
  call.x = arguments.activations(kX, problem.tokens, problem.d_in);
  call.a = arguments.parameter(kA, problem.rank, problem.d_in);
  call.b = arguments.parameter(kB, b_rows, b_columns);
  call.hidden = arguments.array(kHidden, problem.tokens * problem.rank, dtype_bytes(hidden_dtype(problem)));
  call.dx = arguments.activations_if_given(kDx, problem.tokens, problem.d_in);
  call.da = arguments.gradient_if_given(kDa, problem.rank, problem.d_in);
  if (has_router(problem)) {
    call.router = arguments.parameter(kRouter, problem.experts, problem.rank);
    call.d_router = arguments.gradient_if_given(kDRouter, problem.experts, problem.rank);
  }
  if (keeps_probabilities(problem)) {
    call.probabilities =
        static_cast<float *>(arguments.array(kProbabilities, problem.tokens * problem.experts, sizeof(float)));
  }
  if (has_weights(problem)) {
    call.weights = static_cast<float *>(arguments.array(kWeights, problem.groups * problem.experts, sizeof(float)));
  }
  if (arguments.has(kDeferredDb)) {
    if (lora || arguments.has(kDb)) {
      throw make_error(arguments.env(), "ERR_LILY_ARGUMENT", "deferredDb is for Lily, and without db");
    }
    call.deferred_db = static_cast<float *>(
        arguments.array(kDeferredDb, deferred_partials(problem) * problem.rank * problem.d_out, sizeof(float)));
  } else {
    call.db = arguments.gradient_if_given(kDb, b_rows, b_columns);
  }
  return call;
}

}  // namespace lily::napi
