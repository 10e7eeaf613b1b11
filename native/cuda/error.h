// Status codes of the ABI, and the messages that lily_backend.last_error returns.
#pragma once

#include <cuda_runtime_api.h>

#include "lily/backend.h"

// Returns from the enclosing function if the expression's status is an error.
#define LILY_TRY(expression)                                \
  do {                                                      \
    const lily_status lily_try_status = (expression);       \
    if (lily_try_status != LILY_OK) return lily_try_status; \
  } while (false)

namespace lily::cuda {

// Converts the result of a CUDA call into a status. For an error the message is "WHAT: ERROR_NAME (description)", with
// `what` as in "launching the shrink kernel". Also clears CUDA's last error, so that a later check does not see it
// again.
lily_status report(cudaError_t error, const char *what);

// Returns `status` and sets the message, formatted as by printf.
[[gnu::format(printf, 2, 3)]] lily_status fail(lily_status status, const char *format, ...);

// The message of this thread's last error, and the name of the CUDA error, or "".
const char *last_error();
const char *last_error_name();

}  // namespace lily::cuda
