// Counts the JavaScript environments that use the addon, and cleans up after the last one.
#pragma once

#include "napi/releases.h"
#include "napi/shared.h"

namespace lily::napi {

// Instance data of an environment: the main thread or a worker. When the last environment ends, the package releases
// its CUDA memory and streams and closes the CUDA backend.
class Environment {
 public:
  Environment();
  ~Environment();

  const Shared<Releases> releases = Shared<Releases>::make();
};

}  // namespace lily::napi
