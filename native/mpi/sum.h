// The arithmetic of reduce.
#pragma once

#include <stdint.h>

namespace lily::mpi {

// sum_r coefficients[r] * terms[r], added in the order of r in float32 and rounded once, to `out`, which may be one of
// the terms. All arrays have `count` elements of a lily_dtype. A term with coefficient 0 is not read: its numbers may
// be anything, such as the gradients of a mean over no tokens.
void sum(int32_t dtype, int64_t count, const void *const *terms, const float *coefficients, int64_t term_count,
         void *out);

}  // namespace lily::mpi
