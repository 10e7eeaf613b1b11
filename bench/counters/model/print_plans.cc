// Prints plans and the times that the model predicts for them, for bench/counters/plan.ts. The backend's own code,
// compiled for the host, makes the plans; only tools use the model.
//
// Reads one call per line, as numbers, and writes one line of JSON for each:
//
//   device     compute capability, virtual architecture of the code, multiprocessors, bytes of L2, of shared memory per
//              block and per multiprocessor, threads per multiprocessor, clock in Hz, bytes per second of memory
//   call       0 forward or 1 backward, M, d_in, d_out, r, E, G, routing, dtypes of activations and of parameters
//   tiles      shrink, strip, large and mix: three sizes each, zeros for a free choice
//   list       calls, among which M is divided; 1 if their rows are scattered
//
// Options:
//
//   --constants LIST   with these constants of the GPU, name=value,..., in place of its capability's
//   --predict LIST     the same for predictions alone: the library's constants make the choices
//   --show-constants C prints the names and values of the constants of compute capability C instead
//   --rows N A         prints the rows of the tables of engines with elements of N bytes instead, if code of the
//   virtual
//                      architecture A has kernels for them
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
    case Step::kScale:
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

// The work of a launch of a list, whose calls have equal works but for their sizes.
Work sum_of(const std::vector<Work> &works) {
  Work sum = works[0];
  for (size_t i = 1; i < works.size(); ++i) {
    sum.read += works[i].read;
    sum.written += works[i].written;
    sum.reread += works[i].reread;
    sum.requested += works[i].requested;
    for (int kind = 0; kind < sum.kind_count; ++kind) sum.kinds[kind].count += works[i].kinds[kind].count;
  }
  return sum;
}

// The launches of a list, or of one call.
template <typename Plan>
void print(const std::vector<Plan> &plans, const std::vector<lily_problem> &problems, const Device &device) {
  const auto count = static_cast<int>(plans.size());
  std::vector<std::vector<Work>> works;
  size_t workspace_bytes = 0;
  bool is_supported = true, first = true;
  for (int call = 0; call < count; ++call) {
    works.push_back(works_of(problems[call], plans[call], device));
    workspace_bytes += plans[call].workspace_bytes;
    is_supported = is_supported && plans[call].is_supported;
  }
  const Plan &plan = plans[0];
  const Model model(problems[0], plan.engine, plan.has_token_weights, tile_rows(plan.engine, device), device);
  std::printf("{\"supported\":%s,\"workspaceBytes\":%zu,\"launches\":[", is_supported ? "true" : "false",
              workspace_bytes);
  for_each_step(plans.data(), count, [&](Members members) {
    std::vector<Work> of_members;
    long long blocks = 0;
    int shared_bytes = 0;
    for (const Member &member : members) {
      of_members.push_back(works[member.call][member.launch - plans[member.call].launches.begin()]);
      blocks += member.launch->grid.blocks();
      shared_bytes = std::max(shared_bytes, member.launch->shared_bytes);
    }
    const Work work = sum_of(of_members);
    const Launch &launch = *members[0].launch;
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
        blocks, launch.threads, shared_bytes, predicted.resident, predicted.waves, predicted.in_flight, work.touched(),
        work.reread, work.requested, predicted.seconds, predicted.l2_seconds, predicted.busy_seconds);
    first = false;
    return LILY_OK;
  });
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
  int capability = 0, backward = 0, calls = 1, scatters = 0;
  lily_problem problem = {};
  Restriction only = {};
  problem.scaling = 1;
  while (std::cin >> capability >> device.architecture >> device.multiprocessors >> device.l2_bytes >>
             device.shared_bytes_per_block >> device.shared_bytes_per_multiprocessor >>
             device.threads_per_multiprocessor >> device.clock_hz >> device.dram_bytes_per_second >> backward >>
             problem.tokens >> problem.d_in >> problem.d_out >> problem.rank >> problem.experts >> problem.groups >>
             problem.routing >> problem.activation_dtype >> problem.parameter_dtype &&
         read(std::cin, only.shrink) && read(std::cin, only.strip) && read(std::cin, only.large) &&
         read(std::cin, only.mix) && std::cin >> calls >> scatters) {
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
    std::vector<lily_problem> problems;
    for (int64_t i = 0; i < calls; ++i) {
      problems.push_back(problem);
      problems.back().tokens = problem.tokens * (i + 1) / calls - problem.tokens * i / calls;
    }
    const Alignment rows = scatters != 0 ? kMisaligned : kAligned;
    const auto print_all = [&](const auto &plan_of) {
      std::vector<decltype(plan_of(problem))> plans;
      for (const lily_problem &each : problems) plans.push_back(plan_of(each));
      print(plans, problems, model_device);
    };
    if (backward != 0)
      print_all([&](const lily_problem &each) {
        const BackwardOperands operands = {has_offsets, false, false, true, true, true, true, rows, rows};
        return plan_backward(each, operands, device, restricted);
      });
    else
      print_all([&](const lily_problem &each) {
        const ForwardOperands operands = {has_offsets, true, true, false, rows};
        return plan_forward(each, operands, device, restricted, problem.tokens);
      });
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
