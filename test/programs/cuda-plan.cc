// Plans random calls on random devices, and checks of each plan what every launch requires; that a repeated call, and one
// with as many tokens as others of its bucket, chooses nothing, also among many; and that no plan depends on the calls before. Prints the
// number of plans; a plan with a mistake is printed and fails the program.
//
//   cuda-plan SEED COUNT
#include <stdio.h>
#include <stdlib.h>

#include <algorithm>
#include <initializer_list>
#include <random>
#include <thread>

#include "cuda/launch/choices.h"
#include "cuda/launch/plan_linear.h"
#include "cuda/launch/planner.h"

namespace {

using namespace lily::cuda;

class Random {
 public:
  explicit Random(uint32_t seed) : generator_(seed) {}

  template <typename T>
  T of(std::initializer_list<T> values) {
    return values.begin()[generator_() % values.size()];
  }
  bool flip() { return generator_() % 2 == 0; }

 private:
  std::mt19937 generator_;
};

Device random_device(Random &random) {
  struct Generation {
    int capability, architecture, shared_kib, threads;
  };
  const auto generation = random.of<Generation>({{75, 75, 64, 1024},
                                                 {80, 80, 163, 2048},
                                                 {89, 80, 99, 1536},
                                                 {90, kHopperArchitecture, 227, 2048},
                                                 {90, kHopperWithoutWgmma, 227, 2048},
                                                 {100, 90, 227, 2048},
                                                 {110, 90, 227, 1536},
                                                 {130, 90, 99, 1536}});
  Device device = {};
  device.compute_major = generation.capability / 10;
  device.compute_minor = generation.capability % 10;
  device.architecture = generation.architecture;
  device.multiprocessors = random.of({1, 4, 40, 108, 132, 170});
  device.l2_bytes = random.of({1 << 10, 16 << 10, 4 << 20, 50 << 20});
  device.shared_bytes_per_block = generation.shared_kib << 10;
  device.shared_bytes_per_multiprocessor = (generation.shared_kib + (generation.capability == 75 ? 0 : 1)) << 10;
  device.threads_per_multiprocessor = generation.threads;
  device.clock_hz = 1.5e9;
  device.dram_bytes_per_second = 1e12;
  return device;
}

lily_problem random_problem(Random &random) {
  lily_problem problem = {};
  problem.routing = random.of({0, 1, 2, 3, 4, 5, 6});
  problem.tokens = random.of<int64_t>({0, 1, 7, 33, 64, 65, 113, 512, 1023, 8192, 100000});
  problem.d_in = random.of<int64_t>({1, 9, 33, 768, 4096, 16384});
  problem.d_out = random.of<int64_t>({1, 9, 70, 1000, 4096});
  problem.rank = random.of<int64_t>({1, 3, 16, 33, 64, 100, 128, 129, 140, 448, 1000, 4096});
  problem.experts = problem.routing == LILY_ROUTING_NONE ? 1 : random.of<int64_t>({1, 2, 3, 4, 9, 64});
  const bool has_groups = problem.routing == LILY_ROUTING_SEQUENCE || problem.routing == LILY_ROUTING_FIXED;
  problem.groups = has_groups ? random.of<int64_t>({0, 1, 2, 3, 17, 300}) : 1;
  problem.pool = random.of({0, 1});
  problem.precision = random.of({0, 1, 2});
  problem.activation_dtype = random.of({0, 1, 2});
  problem.parameter_dtype = random.flip() ? LILY_FLOAT32 : problem.activation_dtype;
  problem.scaling = 1;
  problem.dropout = random.of<uint32_t>({0, 0, 6554, 65535});
  return problem;
}

template <typename Plan>
void check(const Plan &plan, size_t query, const lily_problem &problem, const Device &device, const char *direction) {
  const char *wrong = plan.is_supported ? nullptr : "no tile fits";
  if (plan.workspace_bytes > query) wrong = "the workspace is larger than the query says";
  if (problem.tokens > 0 && problem.groups > 0 && plan.launches.count == 0) wrong = "there are no launches";
  for (const Launch &launch : plan.launches) {
    const Grid &grid = launch.grid;
    if (grid.x <= 0 || grid.y <= 0 || grid.z <= 0 || grid.y > 65535 || grid.z > 65535) wrong = "a grid is invalid";
    if (launch.shared_bytes > most_shared_bytes(device)) wrong = "a launch has too much shared memory";
  }
  if (wrong == nullptr) return;
  printf("%s, %s: sm_%d%d, %d multiprocessors, routing %d, M %lld, d %lld to %lld, r %lld, E %lld, G %lld, types %d %d, "
         "precision %d, %d launches\n",
         wrong, direction, device.compute_major, device.compute_minor, device.multiprocessors, problem.routing,
         static_cast<long long>(problem.tokens), static_cast<long long>(problem.d_in),
         static_cast<long long>(problem.d_out), static_cast<long long>(problem.rank),
         static_cast<long long>(problem.experts), static_cast<long long>(problem.groups), problem.activation_dtype,
         problem.parameter_dtype, problem.precision, plan.launches.count);
  exit(1);
}

bool same(const Launch &a, const Launch &b) {
  return a.step == b.step && a.tile == b.tile && a.strip_tile == b.strip_tile && a.grid.x == b.grid.x &&
         a.grid.y == b.grid.y && a.grid.z == b.grid.z && a.shared_bytes == b.shared_bytes && a.threads == b.threads;
}

template <typename Plan>
bool same(const Plan &a, const Plan &b) {
  return a.workspace_bytes == b.workspace_bytes && a.launches.count == b.launches.count &&
         std::equal(a.launches.begin(), a.launches.end(), b.launches.begin(),
                    [](const Launch &one, const Launch &other) { return same(one, other); });
}
bool same(const LinearPlan &a, const LinearPlan &b) { return same(a.launch, b.launch); }

void expect(bool holds, const char *what) {
  if (holds) return;
  printf("%s\n", what);
  exit(1);
}

// plan(tokens) makes a plan of a call in a thread that has made no other, and in this one.
template <typename Plan>
void check_choices(int64_t tokens, const Plan &plan) {
  decltype(plan(tokens)) fresh;
  std::thread([&] { fresh = plan(tokens); }).join();
  plan(bucket(tokens));
  const int64_t made = choices_made;
  const auto kept = plan(tokens);
  plan(tokens);
  expect(choices_made == made, "a call whose bucket is known was planned");
  expect(same(fresh, kept), "a plan depends on the calls before");
}

// A list of many adapters in each layer of a model.
void check_many_choices(Random &random) {
  const Device device = random_device(random);
  const auto plan_all = [&] {
    for (int64_t tokens = 1; tokens <= 32; ++tokens)
      for (const int64_t d_out : {1024, 2048, 4096, 8192, 16384}) {
        lily_problem problem = {};
        problem.routing = LILY_ROUTING_NONE;
        problem.tokens = tokens;
        problem.d_in = 64;
        problem.d_out = d_out;
        problem.rank = 16;
        problem.experts = problem.groups = 1;
        plan_backward(problem, {}, device);
      }
  };
  plan_all();
  const int64_t made = choices_made;
  plan_all();
  expect(choices_made == made, "of many calls one was planned again");
}

void check_buckets() {
  for (int64_t tokens = 1; tokens < 100000; tokens += 1 + tokens / 100) {
    const int64_t end = bucket(tokens);
    expect(end >= tokens && end <= tokens + tokens / 16 && bucket(end) == end, "a bucket ends elsewhere");
  }
  expect(bucket(INT32_MAX) == INT32_MAX && bucket(64) == 64 && bucket(65) > 64, "a bucket ends elsewhere");
}

}  // namespace

int main(int, char **arguments) {
  Random random(static_cast<uint32_t>(atoi(arguments[1])));
  check_buckets();
  check_many_choices(random);
  int plans = 0;
  while (plans < atoi(arguments[2])) {
    const Device device = random_device(random);
    lily_problem problem = random_problem(random);
    problem.unaligned = random.flip();
    if (lily::problem_error(problem) != nullptr) continue;
    const bool has_offsets = problem.routing == LILY_ROUTING_SEQUENCE ||
                             (problem.routing == LILY_ROUTING_FIXED && (problem.groups != 1 || random.flip()));
    const auto alignment = [&] { return problem.unaligned != 0 ? random.of({kAligned, kMisaligned}) : kAligned; };
    check(plan_forward(problem,
                       {has_offsets, random.flip(), random.flip(), false, alignment(), alignment(), alignment()}, device),
          forward_workspace_bytes(problem, device), problem, device, "forward");
    BackwardOperands operands = {has_offsets, random.flip(), false, random.flip(), random.flip(), random.flip(), false,
                                 problem.routing == LILY_ROUTING_FIXED && random.flip()};
    operands.defers_db = problem.routing != LILY_ROUTING_NONE && random.flip();
    operands.has_db = !operands.defers_db;
    operands.dy = alignment(), operands.x = alignment(), operands.hidden = alignment();
    operands.a = alignment(), operands.b = alignment();
    check(plan_backward(problem, operands, device), backward_workspace_bytes(problem, device), problem, device,
          "backward");
    if (plans % 100 == 0) {
      const auto at = [&](int64_t tokens) {
        lily_problem other = problem;
        other.tokens = tokens;
        return other;
      };
      check_choices(problem.tokens, [&](int64_t tokens) { return plan_forward(at(tokens), {has_offsets, true, true}, device); });
      check_choices(problem.tokens, [&](int64_t tokens) { return plan_backward(at(tokens), operands, device); });
      lily_linear_problem linear = {};
      linear.d_in = problem.d_in;
      linear.d_out = problem.d_out;
      linear.activation_dtype = linear.parameter_dtype = problem.activation_dtype;
      linear.transposed = random.flip();
      check_choices(problem.tokens, [&](int64_t tokens) {
        linear.tokens = tokens;
        suits_cublaslt(linear, device);
        return plan_linear(linear, {}, device);
      });
    }
    plans += 2;
  }
  printf("%d plans\n", plans);
}
