// Graphs that stream captures create: work and its dependencies.
#pragma once

#include <cuda_runtime_api.h>

#include <memory>
#include <string>
#include <vector>

#include "runtime/stream.h"

namespace lily::emulator::runtime {

struct GraphNode {
  Work work;
  std::vector<GraphNode *> dependencies;
  int device = 0;
};

struct Graph {
  std::vector<std::unique_ptr<GraphNode>> nodes;  // in topological order
  int device = 0;
  std::string label;
};

// Registers a captured graph and returns its handle.
cudaGraph_t add_graph(std::unique_ptr<Graph> graph);

std::vector<std::string> live_graphs(int device);
void destroy_graphs(int device);

}  // namespace lily::emulator::runtime
