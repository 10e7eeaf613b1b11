// The arithmetic of reduce.
#pragma once

#include <stdint.h>

namespace lily::mpi {

struct Term {
  const void *data;
  float coefficient;
};

// The sum of coefficient * data over the terms, in their order, in float32 and rounded once. All arrays have `count`
// elements of a lily_dtype. `out` may be the data of a term.
void sum(int32_t dtype, int64_t count, const Term *terms, int64_t term_count, void *out);

}  // namespace lily::mpi
