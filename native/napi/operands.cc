#include "napi/operands.h"

#include <string>

#include "core/problem.h"
#include "napi/backends.h"
#include "napi/handles.h"

namespace lily::napi {
namespace {

// Bytes up to the end of the last row, or -1 where they do not fit into an int64.
int64_t extent(int64_t rows, int64_t columns, int64_t pitch, int64_t element_bytes) {
  if (rows == 0 || columns == 0) return 0;
  int64_t elements = 0, bytes = 0;
  if (__builtin_mul_overflow(rows - 1, pitch, &elements) || __builtin_add_overflow(elements, columns, &elements) ||
      __builtin_mul_overflow(elements, element_bytes, &bytes)) {
    return -1;
  }
  return bytes;
}

// False: it is not a typed array.
bool typed_array_memory(napi_env env, napi_value value, void **data, size_t *bytes) {
  // A kind that Node-API does not know leaves it as it is.
  auto type = static_cast<napi_typedarray_type>(-1);
  size_t length = 0;
  if (napi_get_typedarray_info(env, value, &type, &length, data, nullptr, nullptr) != napi_ok) return false;
  // An empty array may have no memory at all, yet it is there: NULL means absent to the ABI.
  static char empty[1];
  if (*data == nullptr) *data = empty;
  static constexpr size_t kElementBytes[] = {1, 1, 1, 2, 2, 4, 4, 4, 8, 8, 8};
  if (static_cast<size_t>(type) >= sizeof kElementBytes / sizeof *kElementBytes) return false;
  *bytes = length * kElementBytes[type];
  return true;
}

}  // namespace

int64_t whole_number(Napi::Env env, double number, const char *name) {
  constexpr double kLimit = 9007199254740992.0;  // 2^53
  if (number >= -kLimit && number <= kLimit) return static_cast<int64_t>(number);
  throw make_error(env, "ERR_LILY_ARGUMENT", std::string(name) + " is not a whole number");
}

Arguments::Arguments(const Napi::CallbackInfo &info, const char *const *slot_names, int slot_count)
    : info_(info), slot_names_(slot_names) {
  Napi::Env env = info.Env();
  const int numbers = kFieldCount + slot_count * kSlotFieldCount;
  numbers_ = static_cast<const double *>(array_memory(env, info[0], numbers, sizeof(double), "descriptor"));
  backend_ = backend_by_number(field(kBackend));
  if (backend_ == nullptr) {
    throw make_error(env, "ERR_LILY_BACKEND_UNAVAILABLE", cuda_absence());
  }
  problem_.tokens = whole(field(kTokens), "tokens");
  problem_.d_in = whole(field(kDIn), "dIn");
  problem_.d_out = whole(field(kDOut), "dOut");
  problem_.rank = whole(field(kRank), "rank");
  problem_.experts = whole(field(kExperts), "experts");
  problem_.groups = whole(field(kGroups), "groups");
  problem_.routing = static_cast<int32_t>(whole(field(kRouting), "routing"));
  problem_.pool = static_cast<int32_t>(whole(field(kPool), "pool"));
  problem_.activation = static_cast<int32_t>(whole(field(kActivation), "activation"));
  problem_.precision = static_cast<int32_t>(whole(field(kPrecision), "precision"));
  problem_.activation_dtype = static_cast<int32_t>(whole(field(kActivationDtype), "activationDtype"));
  problem_.parameter_dtype = static_cast<int32_t>(whole(field(kParameterDtype), "parameterDtype"));
  problem_.scaling = static_cast<float>(field(kScaling));
  problem_.device = static_cast<int32_t>(whole(field(kDevice), "device"));
  if (const char *wrong = problem_error(problem_)) throw make_error(env, "ERR_LILY_ARGUMENT", wrong);
}

int64_t Arguments::whole(double number, const char *name) const { return whole_number(info_.Env(), number, name); }

bool Arguments::has(int slot) const {
  const Napi::Value value = info_[slot + 1];
  return !value.IsNull() && !value.IsUndefined();
}

void *Arguments::checked(int slot, int64_t rows, int64_t columns, int64_t pitch, int64_t element_bytes) const {
  const char *name = slot_names_[slot];
  const int64_t bytes = extent(rows, columns, pitch, element_bytes);
  if (bytes < 0 || (pitch < columns && rows > 1)) {
    throw make_error(info_.Env(), "ERR_LILY_SHAPE",
                     std::string(name) + " cannot have " + std::to_string(rows) + " rows of " +
                         std::to_string(columns) + " elements with pitch " + std::to_string(pitch));
  }
  const int64_t offset = whole(slot_field(slot, kByteOffset), "byteOffset");
  return memory_of(info_.Env(), *backend_, problem_.device, info_[slot + 1], offset, bytes, name);
}

lily_matrix Arguments::matrix(int slot, int64_t rows, int64_t columns) const {
  const int64_t pitch = whole(slot_field(slot, kPitch), "pitch");
  const int32_t dtype = static_cast<int32_t>(whole(slot_field(slot, kDtype), "dtype"));
  const int64_t element_bytes = dtype_bytes(dtype);
  if (element_bytes == 0) throw make_error(info_.Env(), "ERR_LILY_DTYPE", "unknown dtype");
  return {checked(slot, rows, columns, pitch, element_bytes), pitch, dtype, slot_field(slot, kAccumulate) != 0 ? 1 : 0};
}

lily_matrix Arguments::matrix_if_given(int slot, int64_t rows, int64_t columns) const {
  return has(slot) ? matrix(slot, rows, columns) : lily_matrix{};
}

void *Arguments::array(int slot, int64_t count, int64_t element_bytes) const {
  return checked(slot, 1, count, count, element_bytes);
}

void *Arguments::array_if_given(int slot, int64_t count, int64_t element_bytes) const {
  return has(slot) ? array(slot, count, element_bytes) : nullptr;
}

void *Arguments::array_of(napi_value value, int64_t offset, int64_t count, int64_t element_bytes,
                          const char *name) const {
  const int64_t bytes = extent(1, count, count, element_bytes);
  return memory_of(info_.Env(), *backend_, problem_.device, value, offset, bytes, name);
}

lily_tokens Arguments::tokens(int mask_slot, int offsets_slot) const {
  lily_tokens tokens = {};
  tokens.mask = static_cast<const uint8_t *>(array_if_given(mask_slot, problem_.tokens, 1));
  if (!may_have_groups(problem_)) return tokens;
  if (!has(offsets_slot) && problem_.routing == LILY_ROUTING_FIXED && problem_.groups == 1) return tokens;
  const auto *offsets = static_cast<const int32_t *>(array(offsets_slot, problem_.groups + 1, sizeof(int32_t)));
  tokens.sequence_offsets = offsets;
  if (backend_ != lily_cpu_backend()) return tokens;  // not to be read here; the kernels clamp
  bool ascends = offsets[0] == 0 && offsets[problem_.groups] == problem_.tokens;
  for (int64_t group = 0; group < problem_.groups; ++group) ascends = ascends && offsets[group] <= offsets[group + 1];
  if (!ascends) {
    throw make_error(info_.Env(), "ERR_LILY_ARGUMENT", "sequenceOffsets do not ascend from 0 to the number of tokens");
  }
  return tokens;
}

void *memory_of(Napi::Env env, const lily_backend &backend, int32_t device, napi_value value, int64_t offset,
                int64_t bytes, const char *name) {
  if (&backend != lily_cpu_backend()) return device_memory_of(env, device, value, offset, bytes, name);
  void *data = nullptr;
  size_t given = 0;
  if (!typed_array_memory(env, value, &data, &given)) {
    throw make_error(env, "ERR_LILY_ARGUMENT", std::string(name) + " is not a typed array");
  }
  const bool fits = bytes >= 0 && offset >= 0 && static_cast<uint64_t>(offset) <= given &&
                    static_cast<uint64_t>(bytes) <= given - static_cast<uint64_t>(offset);
  if (fits) return static_cast<char *>(data) + offset;
  throw make_error(env, "ERR_LILY_SHAPE",
                   std::string(name) + " has no " + std::to_string(bytes) + " bytes from offset " +
                       std::to_string(offset) + ": it has " + std::to_string(given));
}

void *array_memory(Napi::Env env, napi_value value, int64_t count, int64_t element_bytes, const char *name) {
  void *data = nullptr;
  size_t bytes = 0;
  const int64_t needed = extent(1, count, count, element_bytes);
  if (typed_array_memory(env, value, &data, &bytes) && needed >= 0 && bytes >= static_cast<uint64_t>(needed)) {
    return data;
  }
  throw make_error(env, "ERR_LILY_ARGUMENT",
                   std::string(name) + " must be a typed array of at least " + std::to_string(needed) + " bytes");
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
