// Statuses of the ABI, with the message that lily_backend.last_error gives.
#pragma once

#include <cuda_runtime_api.h>

#include "lily/backend.h"

// Errors of one call after the other: the first one ends the function.
#define LILY_TRY(expression)                                \
  do {                                                      \
    const lily_status lily_try_status = (expression);       \
    if (lily_try_status != LILY_OK) return lily_try_status; \
  } while (false)

namespace lily::cuda {

// The status of a CUDA call; of an error the message names it, after `what` was done ("launching the shrink kernel").
// It takes the error back from CUDA's own memory of the last one, so that a later check does not see it again.
lily_status report(cudaError_t error, const char *what);

// A status with a message of printf's kind.
[[gnu::format(printf, 2, 3)]] lily_status fail(lily_status status, const char *format, ...);

// Of this thread: the message of the last of these, and CUDA's name of the error, or "".
const char *last_error();
const char *last_error_name();

}  // namespace lily::cuda
