// Functions of the driver API, which programs get from the runtime.
#pragma once

#include <cuda.h>

#include "check.h"

template <class Function>
Function driver_function(const char *symbol) {
  void *found = nullptr;
  CHECK(cudaGetDriverEntryPointByVersion(symbol, &found, 12000, cudaEnableDefault, nullptr));
  return reinterpret_cast<Function>(found);
}
