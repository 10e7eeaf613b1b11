// Prints plans and what the model of time predicts of them, for bench/counters/plan.ts. The plans are those of the
// backend itself, compiled for the host; the model is a tool's alone.
//
// Reads one call per line, as numbers, and writes one line of JSON for each:
//
//   device     compute capability, virtual architecture of the code, multiprocessors, bytes of L2, of shared memory per
//              block and per multiprocessor, threads per multiprocessor, clock in Hz, bytes per second of memory
//   call       0 forward or 1 backward, M, d_in, d_out, r, E, G, routing, dtypes of activations and of parameters
//   tiles      shrink, strip, large and mix: three sizes each, zeros for a free choice
//
// Options:
//
//   --constants LIST   with these constants of the GPU, name=value,..., in place of those of its capability
//   --predict LIST     the same for predictions alone: the choices are those of the library
//   --show-constants C prints the names and values of the constants of compute capability C instead
//   --rows N A         prints the rows of the tables of engines with elements of N bytes instead, of which code of the
//                      virtual architecture A has kernels
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <map>
#include <sstream>
#include <string>
#include <string_view>

#include "cuda/launch/choices.h"
#include "cuda/launch/planner.h"
#include "model/works.h"

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
  const std::vector<Work> works = works_of(problem, plan, device);
  bool first = true;
  for (const Launch &launch : plan.launches) {
    const Work &work = works[static_cast<size_t>(&launch - plan.launches.begin())];
    const Prediction predicted = model.predict(work);
    std::printf("%s{\"kernel\":\"%s\",\"tile\":", first ? "" : ",", name(launch.step));
    print(launch.tile);
    std::printf(",\"stripTile\":");
    print(launch.strip_tile);
    std::printf(
        ",\"blocks\":%lld,\"threads\":%d,\"sharedBytes\":%d,\"resident\":%d,\"waves\":%.17g,\"inFlight\":%.17g,"
        "\"touched\":%.17g,"
        "\"reread\":%.17g,\"requested\":%.17g,\"seconds\":%.17g,\"l2Seconds\":%.17g,"
        "\"busySeconds\":%.17g}",
        static_cast<long long>(launch.grid.blocks()), launch.threads, launch.shared_bytes, predicted.resident,
        predicted.waves, predicted.in_flight, work.touched(), work.reread, work.requested, predicted.seconds,
        predicted.l2_seconds, predicted.busy_seconds);
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

constexpr struct {
  const char *name;
  double Constants::*value;
} kNames[] = {{"tensor", &Constants::tensor},
              {"tf32", &Constants::tf32},
              {"fma", &Constants::fma},
              {"wgmma", &Constants::wgmma},
              {"l2Bytes", &Constants::l2_bytes},
              {"l2Latency", &Constants::l2_latency},
              {"dramLatency", &Constants::dram_latency},
              {"dramShare", &Constants::dram_share},
              {"launchGap", &Constants::launch_gap}};

void set_capability(Device &device, int capability) {
  device.compute_major = capability / 10;
  device.compute_minor = capability % 10;
}

int show_constants(int capability) {
  Device device = {};
  set_capability(device, capability);
  const char *separator = "{";
  for (const auto &[name, value] : kNames) {
    std::printf("%s\"%s\":%.17g", separator, name, constants_of(device).*value);
    separator = ",";
  }
  std::printf("}\n");
  return 0;
}

// Returns whether the list names constants alone.
bool change(Constants &constants, const std::string &list) {
  std::istringstream items(list);
  std::string item;
  while (std::getline(items, item, ',')) {
    const size_t equals = item.find('=');
    const auto *found = std::find_if(std::begin(kNames), std::end(kNames),
                                     [&](const auto &each) { return item.substr(0, equals) == each.name; });
    if (equals == std::string::npos || found == std::end(kNames)) {
      std::cerr << item << ": expected name=value with a name of --show-constants\n";
      return false;
    }
    constants.*found->value = std::strtod(item.c_str() + equals + 1, nullptr);
  }
  return true;
}

bool read(std::istream &in, Tile &tile) { return !!(in >> tile.block_m >> tile.block_n >> tile.block_k); }

int run(const std::string &constants, const std::string &predicting) {
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
    set_capability(device, capability);
    if (const char *wrong = problem_error(problem)) {
      std::cerr << wrong << '\n';
      return 1;
    }
    device.constants = nullptr;
    Constants chosen = constants_of(device);
    if (!change(chosen, constants)) return 1;
    Constants predicted = chosen;
    if (!change(predicted, predicting)) return 1;
    // The address is part of the key of kept choices.
    static std::map<int, Constants> kept;
    if (!constants.empty()) device.constants = &kept.emplace(capability, chosen).first->second;
    Device model_device = device;
    model_device.constants = &predicted;
    const bool has_offsets = problem.routing == LILY_ROUTING_SEQUENCE;
    const Restriction *restricted = only == Restriction{} ? nullptr : &only;
    if (backward != 0)
      print(plan_backward(problem, {has_offsets, false, false, true, true, true, true}, device, restricted), problem,
            model_device);
    else
      print(plan_forward(problem, {has_offsets, true, true}, device, restricted), problem, model_device);
  }
  return 0;
}

}  // namespace
}  // namespace lily::cuda

int main(int count, char **arguments) {
  using namespace lily::cuda;
  std::string constants, predicting;
  for (int i = 1; i < count; ++i) {
    const std::string_view option = arguments[i];
    const char *const value = i + 1 < count ? arguments[++i] : "";
    if (option == "--rows" && i + 1 < count) return print_rows(std::atoi(value), std::atoi(arguments[i + 1]));
    if (option == "--show-constants") return show_constants(std::atoi(value));
    if (option == "--constants")
      constants = value;
    else if (option == "--predict")
      predicting = value;
    else {
      std::cerr << option << ": unknown option\n";
      return 1;
    }
  }
  return run(constants, predicting);
}
