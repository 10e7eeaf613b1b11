// Counts the JavaScript environments that use the addon, and cleans up after the last one.
#pragma once

namespace lily::napi {

// Instance data of an environment: the main thread or a worker. When the last environment ends, the package releases
// its CUDA memory and streams and closes the CUDA backend.
class Environment {
 public:
  Environment();
  ~Environment();
};

}  // namespace lily::napi
