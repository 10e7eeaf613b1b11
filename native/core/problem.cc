#include "core/problem.h"

namespace lily {

namespace {

const char *d_out_error(int64_t d_out) {
  return d_out < 1 || d_out > kMaxDimension ? "d_out must be from 1 to 2^40" : nullptr;
}

// What all operations require of the sizes and the types that they have in common.
template <typename P>
const char *common_error(const P &problem) {
  // The parentheses: GCC would warn that `tokens <` looks like the arguments of a template.
  if ((problem.tokens < 0) || (problem.tokens > INT32_MAX)) return "tokens must be from 0 to 2^31 - 1";
  if (problem.d_in < 1 || problem.d_in > kMaxDimension) return "d_in must be from 1 to 2^40";
  if (const char *wrong = d_out_error(problem.d_out)) return wrong;
  if (problem.precision < LILY_PRECISION_DEFAULT || problem.precision > LILY_PRECISION_TF32) return "unknown precision";
  if (dtype_bytes(problem.activation_dtype) == 0 || dtype_bytes(problem.parameter_dtype) == 0) return "unknown dtype";
  return nullptr;
}

template <typename P>
bool has_parameter_dtype(const P &problem) {
  return problem.parameter_dtype == LILY_FLOAT32 || problem.parameter_dtype == problem.activation_dtype;
}

constexpr char kParameterDtype[] = "the dtype of the parameters must be float32 or that of the activations";

}  // namespace

const char *problem_error(const lily_linear_problem &problem) {
  if (problem.transposed < 0 || problem.transposed > 1) return "transposed must be 0 or 1";
  if (const char *wrong = common_error(problem)) return wrong;
  return problem.activation_dtype == LILY_FLOAT32 || has_parameter_dtype(problem) ? nullptr : kParameterDtype;
}

const char *stack_error(int64_t rank, int64_t experts, int64_t d_out) {
  if (rank < 1 || rank > kMaxRank) return "rank must be from 1 to 4096";
  if (experts < 1 || experts > kMaxExperts) return "experts must be from 1 to 64";
  return d_out_error(d_out);
}

const char *problem_error(const lily_problem &problem) {
  if (const char *wrong = common_error(problem)) return wrong;
  if (!has_parameter_dtype(problem)) return kParameterDtype;
  if (const char *wrong = stack_error(problem.rank, problem.experts, problem.d_out)) return wrong;
  if (problem.routing < LILY_ROUTING_BATCH || problem.routing > LILY_ROUTING_LEARNED) return "unknown routing";
  if (problem.pool < LILY_POOL_PROBABILITIES || problem.pool > LILY_POOL_LOGITS) return "unknown pool";
  if (problem.activation < LILY_ACTIVATION_NONE || problem.activation > LILY_ACTIVATION_RELU) {
    return "unknown activation";
  }
  if (problem.routing == LILY_ROUTING_NONE && problem.experts != 1) return "LoRA must have one expert";
  if (problem.routing == LILY_ROUTING_TOKEN && problem.pool != LILY_POOL_PROBABILITIES) {
    return "token routing has no pool of logits";
  }
  if (problem.groups < 0 || problem.groups > INT32_MAX) return "groups must be from 0 to 2^31 - 1";
  if (!may_have_groups(problem) && problem.groups != 1) return "this routing must have one group";
  if (problem.groups == 0 && problem.tokens > 0) return "groups must be at least 1 if there are tokens";
  if (problem.dropout >= kDropoutSteps) return "dropout must be below 65536";
  return nullptr;
}

bool may_have_groups(const lily_problem &problem) {
  return problem.routing == LILY_ROUTING_SEQUENCE || problem.routing == LILY_ROUTING_FIXED;
}

bool has_router(const lily_problem &problem) { return problem.routing <= LILY_ROUTING_TOKEN; }

int64_t router_columns(const lily_problem &problem) {
  if (problem.routing == LILY_ROUTING_LEARNED) return 1;
  return has_router(problem) ? problem.rank : 0;
}

bool keeps_probabilities(const lily_problem &problem) {
  return problem.routing == LILY_ROUTING_TOKEN || (has_router(problem) && problem.pool == LILY_POOL_PROBABILITIES);
}

bool has_weights(const lily_problem &problem) {
  return problem.routing != LILY_ROUTING_TOKEN && problem.routing != LILY_ROUTING_NONE;
}

int64_t deferred_partials(const lily_problem &problem) {
  return deferred_is_weighted(problem) ? problem.experts : problem.groups;
}

bool deferred_is_weighted(const lily_problem &problem) {
  return problem.routing == LILY_ROUTING_TOKEN || problem.groups > problem.experts;
}

int64_t dtype_bytes(int32_t dtype) {
  switch (dtype) {
    case LILY_FLOAT32: return 4;
    case LILY_BFLOAT16:
    case LILY_FLOAT16: return 2;
    default: return 0;
  }
}

int32_t hidden_dtype(const lily_problem &problem) {
  const bool high = problem.parameter_dtype == LILY_FLOAT32 && problem.precision == LILY_PRECISION_HIGH;
  return high ? LILY_FLOAT32 : problem.activation_dtype;
}

}  // namespace lily
