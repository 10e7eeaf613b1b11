#include "runtime/graph.h"

#include <cstdio>
#include <map>

#include "runtime/call.h"
#include "runtime/capture.h"
#include "runtime/leaks.h"

namespace lily::emulator::runtime {
namespace {

// Shares its nodes with the graph, which cannot be modified after the capture.
struct ExecutableGraph {
  std::shared_ptr<Graph> graph;
  std::string label;
  OperationPtr last_launch;                          // launches of the same executable graph run one after the other
  std::vector<std::unique_ptr<Timeline>> timelines;  // one per branch
};

std::map<const void *, std::shared_ptr<Graph>> &graphs() {
  static auto *const graphs = new std::map<const void *, std::shared_ptr<Graph>>;
  return *graphs;
}

std::map<const void *, std::unique_ptr<ExecutableGraph>> &executables() {
  static auto *const executables = new std::map<const void *, std::unique_ptr<ExecutableGraph>>;
  return *executables;
}

cudaError_t instantiate(cudaGraphExec_t *result, cudaGraph_t handle, unsigned long long flags) {
  const auto found = graphs().find(handle);
  if (found == graphs().end()) return cudaErrorInvalidValue;
  if (flags != 0) return cudaErrorNotSupported;
  auto executable = std::make_unique<ExecutableGraph>();
  executable->graph = found->second;
  executable->label = describe_call("an executable graph");
  *result = reinterpret_cast<cudaGraphExec_t>(executable.get());
  executables()[executable.get()] = std::move(executable);
  return cudaSuccess;
}

// The nodes run after the work already in the stream, ordered among each other by their dependencies only. Work queued
// in the stream afterwards waits for all of them.
cudaError_t launch_graph(cudaGraphExec_t handle, Stream &stream) {
  const auto found = executables().find(handle);
  if (found == executables().end()) return cudaErrorInvalidValue;
  if (stream.capture) {
    fprintf(stderr, "emulator: cudaGraphLaunch during a stream capture (a child graph) is not emulated\n");
    invalidate(*stream.capture);
    return cudaErrorNotSupported;
  }
  ExecutableGraph &executable = *found->second;
  if (const cudaError_t error = check_not_capturing(stream)) return error;
  enqueue_after(stream, executable.last_launch);
  const OperationPtr first = stream.last;
  std::map<const GraphNode *, OperationPtr> operations;
  // A node continues the branch of one of its dependencies, if no other node has continued it, or starts a new branch.
  std::map<const GraphNode *, Timeline *> open_branches;
  size_t branches = 0;
  const auto branch_of = [&](const GraphNode &node) {
    for (const GraphNode *each : node.dependencies) {
      const auto found = open_branches.find(each);
      if (found == open_branches.end()) continue;
      Timeline *const timeline = found->second;
      open_branches.erase(found);
      return timeline;
    }
    if (branches == executable.timelines.size()) executable.timelines.push_back(std::make_unique<Timeline>());
    return executable.timelines[branches++].get();
  };
  auto last = std::make_shared<Operation>();
  last->device = stream.device;
  last->clock = first->clock;
  last->dependencies.push_back(first);
  for (const auto &node : executable.graph->nodes) {
    auto operation = std::make_shared<Operation>();
    // The nodes must exist for as long as their work is queued.
    operation->work = [graph = executable.graph, run = &node->work.run] { (*run)(); };
    operation->host_function = node->work.host_function;
    operation->device = node->device;
    operation->name = node->work.name + " of a graph in stream " + std::to_string(stream.id);
    operation->clock = first->clock;
    operation->dependencies.push_back(first);
    for (const GraphNode *each : node->dependencies) {
      operation->clock.join(operations[each]->clock);
      operation->dependencies.push_back(operations[each]);
    }
    // The first dependency is the stream's own.
    if (node->work.dependent && !node->dependencies.empty())
      operation->follows = operations[node->dependencies.front()];
    Timeline *const branch = branch_of(*node);
    assign_time(*operation, *branch);
    open_branches[node.get()] = branch;
    last->clock.join(operation->clock);
    operations[node.get()] = operation;
    last->dependencies.push_back(operation);
    submit(operation);
  }
  assign_time(*last, stream.timeline);
  stream.last = executable.last_launch = last;
  submit(last);
  return cudaSuccess;
}

}  // namespace

cudaGraph_t add_graph(std::unique_ptr<Graph> graph) {
  const cudaGraph_t handle = reinterpret_cast<cudaGraph_t>(graph.get());
  graphs()[graph.get()] = std::move(graph);
  return handle;
}

std::vector<std::string> live_graphs(int device) {
  std::vector<std::string> result;
  for (const auto &[handle, each] : graphs()) {
    if (each->device == device) result.push_back(each->label);
  }
  for (const auto &[handle, each] : executables()) {
    if (each->graph->device == device) result.push_back(each->label);
  }
  return result;
}

void destroy_graphs(int device) {
  std::erase_if(graphs(), [&](const auto &each) { return each.second->device == device; });
  std::erase_if(executables(), [&](const auto &each) { return each.second->graph->device == device; });
}

}  // namespace lily::emulator::runtime

using namespace lily::emulator;
using namespace lily::emulator::runtime;

extern "C" {

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *result, cudaGraph_t graph, unsigned long long flags) {
  return call(__func__, [&] { return instantiate(result, graph, flags); });
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t handle) {
  return call(__func__,
              [&] { return with_stream(handle, [&](Stream &stream) { return launch_graph(graph, stream); }); });
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  return call(__func__, Requirement::kRelease,
              [&] { return graphs().erase(graph) == 1 ? cudaSuccess : cudaErrorInvalidValue; });
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) {
  return call(__func__, Requirement::kRelease,
              [&] { return executables().erase(graph) == 1 ? cudaSuccess : cudaErrorInvalidValue; });
}

}  // extern "C"
