// The plan of a frozen linear layer: one launch, with the tile that is fastest by cost.h, after one that casts operands
// of another type or alignment.
#include "cuda/launch/plan_linear.h"

#include "cuda/launch/choices.h"
#include "cuda/launch/planner.h"

namespace lily::cuda {
namespace {

// To a chooser, the product is h = x A^T with a rank of as many rows as y has columns. It has no outputs but h.
lily_problem problem_of(const lily_linear_problem &linear) {
  const bool transposed = linear.transposed != 0;
  lily_problem problem = {};
  problem.tokens = linear.tokens;
  problem.d_in = transposed ? linear.d_out : linear.d_in;
  problem.d_out = 1;
  problem.rank = transposed ? linear.d_in : linear.d_out;
  problem.experts = problem.groups = 1;
  problem.routing = LILY_ROUTING_NONE;
  problem.precision = linear.precision;
  problem.activation_dtype = linear.activation_dtype;
  problem.parameter_dtype = linear.parameter_dtype;
  return problem;
}

// The Blackwell of data centres multiplies faster with tcgen05, which cuBLASLt uses, than with the mma.sync of our
// kernels; and Hopper with wgmma, which they use too, if TMA copies the operands. Blackwell's consumer GPUs (12.x) have
// mma.sync alone.
bool has_faster_instructions(const Device &device) { return device.compute_major >= 9 && device.compute_major < 12; }

// Fewer tokens wait for the weight, whatever multiplies them. They keep bits that do not depend on the batch.
constexpr int64_t kFewTokens = 128;

struct LinearChoice {
  Fastest<ProductChoice> product;
  bool multiplies;  // the matrix units take most of the time
};

class LinearChooser : Chooser {
 public:
  LinearChooser(const lily_problem &problem, const Device &device) : Chooser(problem, false, device, nullptr) {}

  LinearChoice choose() const {
    const double weight = double(problem_.rank) * problem_.d_in * dtype_bytes(problem_.parameter_dtype);
    const double memory = activations(double(problem_.d_in) + problem_.rank) + weight;
    const Fastest<ProductChoice> product = choose_output(problem_.d_in, problem_.rank, memory);
    if (!product.found) return {};
    const Time time = output_time(product.best, problem_.d_in, problem_.rank, memory);
    return {product, 2 * time.occupied > time.seconds};
  }
};

const LinearChoice &choose(const lily_problem &problem, const Device &device) {
  thread_local Choices<LinearChoice> choices;
  return choices.find(problem, 0, device, [&](const lily_problem &at) { return LinearChooser(at, device).choose(); });
}

}  // namespace

bool suits_cublaslt(const lily_linear_problem &linear, const Device &device) {
  if (!has_faster_instructions(device) || linear.tokens < kFewTokens) return false;
  // cuBLASLt multiplies matrices of one type.
  if (linear.parameter_dtype != linear.activation_dtype) return false;
  const lily_problem problem = problem_of(linear);
  if (engine_kind(problem, device) == EngineKind::kExact) return false;
  const LinearChoice &choice = choose(problem, device);
  return choice.product.found && choice.multiplies;
}

LinearPlan plan_linear(const lily_linear_problem &linear, const LinearOperands &operands, const Device &device) {
  const lily_problem problem = problem_of(linear);
  const Fastest<ProductChoice> &product = choose(problem, device).product;
  LinearPlan plan = {};
  plan.engine = engine_kind(problem, device);
  const auto cast = [&](int64_t count, int64_t columns, int32_t dtype, Alignment alignment) {
    return plan_cast(count, columns, dtype, scalar_dtype(plan.engine), alignment, linear.unaligned != 0, true);
  };
  plan.x_cast = cast(linear.tokens, problem.d_in, linear.activation_dtype, operands.x);
  plan.weight_cast = cast(linear.d_out, linear.d_in, linear.parameter_dtype, operands.weight);
  Workspace workspace(nullptr);
  lay_out_casts(workspace, tile_rows(plan.engine, device).scalar_bytes, {&plan.x_cast, &plan.weight_cast});
  plan.workspace_bytes = workspace.bytes();
  add_casts(plan.casts, {plan.x_cast, plan.weight_cast});
  if (!product.found) return plan;
  const LargeRow &row = *product.best.row;
  plan.product = product.best.plan;
  const int64_t blocks = product.best.blocks(problem.tokens, problem.rank);
  plan.is_supported = blocks * plan.product.tiles_each <= INT32_MAX;
  plan.launch = {Step::kLinear, row.tile, {}, {static_cast<int>(blocks), 1, 1}, row.output_bytes, row.threads()};
  return plan;
}

}  // namespace lily::cuda
