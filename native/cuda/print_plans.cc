// Not part of the library: prints plans and what the model predicts of them, for bench/counters/plan.ts. It is the plan
// of the backend itself, compiled for the host.
//
// Reads one call per line, as numbers, and writes one line of JSON for each:
//
//   device     compute capability, virtual architecture of the code, multiprocessors, bytes of L2, of shared memory per
//              block and per multiprocessor, threads per multiprocessor, clock in Hz, bytes per second of memory
//   call       0 forward or 1 backward, M, d_in, d_out, r, E, G, routing, dtypes of activations and of parameters
//   tiles      shrink, strip, large and mix: three sizes each, zeros for a free choice
//
// With --rows N A it prints the rows of the tables of engines with elements of N bytes instead, of which code of the
// virtual architecture A has kernels.
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <string_view>

#include "cuda/launch/model.h"
#include "cuda/launch/planner.h"

namespace lily::cuda {
namespace {

const char *name(Step step) {
  switch (step) {
    case Step::kCast: return "cast";
    case Step::kShrink:
    case Step::kSplitShrink: return "forward_shrink";
    case Step::kRoute: return "forward_route";
    case Step::kPoolWeights: return "pool";
    case Step::kCombine: return "cast";
    case Step::kExpand: return "forward_expand";
    case Step::kMix: return "forward_mix";
    case Step::kDecode: return "forward_decode";
    case Step::kDy:
    case Step::kDyColumns:
    case Step::kDyTokens: return "backward_dy";
    case Step::kDyOnce: return "backward_dy_once";
    case Step::kX: return "backward_x";
    case Step::kFormU: return "form_u";
    case Step::kLargeShrink:
    case Step::kLargeExpand:
    case Step::kLargeDHidden:
    case Step::kLargeDx:
    case Step::kLinear: return "large_product";
    case Step::kLargeD:
    case Step::kLargeDa: return "large_outer";
    case Step::kDHidden: return "backward_hidden";
    case Step::kReduce: return "reduce";
  }
  return "";
}

void print(const Tile &tile) { std::printf("[%d,%d,%d]", tile.block_m, tile.block_n, tile.block_k); }

template <typename Plan>
void print(const Plan &plan, const lily_problem &problem, const Device &device) {
  const Model model(problem, plan.engine, plan.has_token_weights, tile_rows(plan.engine, device), device);
  std::printf("{\"supported\":%s,\"workspaceBytes\":%zu,\"launches\":[", plan.is_supported ? "true" : "false",
              plan.workspace_bytes);
  bool first = true;
  for (const Launch &launch : plan.launches) {
    const Prediction predicted = model.predict(launch.work);
    std::printf("%s{\"kernel\":\"%s\",\"tile\":", first ? "" : ",", name(launch.step));
    print(launch.tile);
    std::printf(",\"stripTile\":");
    print(launch.strip_tile);
    std::printf(
        ",\"blocks\":%lld,\"threads\":%d,\"sharedBytes\":%d,\"resident\":%d,\"waves\":%.17g,\"inFlight\":%.17g,"
        "\"touched\":%.17g,"
        "\"reread\":%.17g,\"requested\":%.17g,\"seconds\":%.17g,\"comparedSeconds\":%.17g,\"l2Seconds\":%.17g,"
        "\"busySeconds\":%.17g}",
        static_cast<long long>(launch.grid.blocks()), launch.threads, launch.shared_bytes, predicted.resident,
        predicted.waves, predicted.in_flight, launch.work.touched(), launch.work.reread, launch.work.requested,
        predicted.seconds, predicted.compared_seconds, predicted.l2_seconds, predicted.busy_seconds);
    first = false;
  }
  std::printf("]}\n");
}

template <typename Row>
void print(const Row &row) {
  print(row.tile);
}
void print(const DyRow &row) {
  std::printf("[");
  print(row.tokens);
  std::printf(",");
  print(row.columns);
  std::printf("]");
}

template <typename Rows>
void print_rows(const char *name, const Rows &rows, const char *separator = ",") {
  std::printf("%s\"%s\":[", separator, name);
  for (const auto &row : rows) {
    if (&row != rows.data()) std::printf(",");
    print(row);
  }
  std::printf("]");
}

int print_rows(int scalar_bytes, int architecture) {
  const TileRows &rows = tile_rows(scalar_bytes, architecture);
  std::printf("{");
  print_rows("shrink", rows.shrink, "");
  print_rows("expand", rows.expand);
  print_rows("dy", rows.dy);
  print_rows("x", rows.x);
  print_rows("mix", rows.mix);
  print_rows("decode", rows.decode);
  print_rows("once", rows.once);
  print_rows("large", rows.large);
  std::printf("}\n");
  return 0;
}

bool read(std::istream &in, Tile &tile) { return !!(in >> tile.block_m >> tile.block_n >> tile.block_k); }

int run() {
  Device device = {};
  int capability = 0, backward = 0;
  lily_problem problem = {};
  Restriction only = {};
  problem.scaling = 1;
  while (std::cin >> capability >> device.architecture >> device.multiprocessors >> device.l2_bytes >>
             device.shared_bytes_per_block >> device.shared_bytes_per_multiprocessor >>
             device.threads_per_multiprocessor >> device.clock_hz >> device.dram_bytes_per_second >> backward >>
             problem.tokens >> problem.d_in >> problem.d_out >> problem.rank >> problem.experts >> problem.groups >>
             problem.routing >> problem.activation_dtype >> problem.parameter_dtype &&
         read(std::cin, only.shrink) && read(std::cin, only.strip) && read(std::cin, only.large) &&
         read(std::cin, only.mix)) {
    device.compute_major = capability / 10;
    device.compute_minor = capability % 10;
    if (const char *wrong = problem_error(problem)) {
      std::cerr << wrong << '\n';
      return 1;
    }
    const bool has_offsets = problem.routing == LILY_ROUTING_SEQUENCE;
    if (backward != 0)
      print(plan_backward(problem, {has_offsets, false, false, true, true, true, true}, device, only), problem, device);
    else
      print(plan_forward(problem, {has_offsets, true, true}, device, only), problem, device);
  }
  return 0;
}

}  // namespace
}  // namespace lily::cuda

int main(int count, char **arguments) {
  const bool rows = count > 3 && std::string_view(arguments[1]) == "--rows";
  return rows ? lily::cuda::print_rows(std::atoi(arguments[2]), std::atoi(arguments[3])) : lily::cuda::run();
}
