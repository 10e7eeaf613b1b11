// Graphs as captures make them: work and what it comes after.
#pragma once

#include <cuda_runtime_api.h>

#include <memory>
#include <string>
#include <vector>

#include "runtime/stream.h"

namespace lily::emulator::runtime {

struct GraphNode {
  Work work;
  std::vector<GraphNode *> after;
  int device = 0;
};

struct Graph {
  std::vector<std::unique_ptr<GraphNode>> nodes;  // each behind those that it comes after
  int device = 0;
  std::string made_by;
};

// Hands a captured graph to the program.
cudaGraph_t publish(std::unique_ptr<Graph> graph);

cudaError_t launch_graph(cudaGraphExec_t handle, Stream &stream);

std::vector<std::string> live_graphs(int device);
void destroy_graphs(int device);

}  // namespace lily::emulator::runtime
