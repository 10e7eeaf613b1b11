// Counts the JavaScript environments that use the addon, and cleans up after the last one.
#pragma once

#include "napi/releases.h"
#include "napi/shared.h"

namespace lily::napi {

class Waits;

// Instance data of an environment: the main thread or a worker. When the last environment ends, the package releases
// its CUDA memory and streams and closes the CUDA backend.
class Environment {
 public:
  Environment();
  ~Environment();

  const Shared<Releases> releases = Shared<Releases>::make();

  // Null before the first wait for a device. It deletes itself, before the environment ends.
  Waits *waits = nullptr;
};

}  // namespace lily::napi
