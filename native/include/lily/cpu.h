/*
 * The CPU backend, and what else of it the binding uses. It is built into the addon and into the WebAssembly module, so
 * nothing here crosses a library boundary, and the ABI version does not cover it.
 */
#ifndef LILY_CPU_H
#define LILY_CPU_H

#include "lily/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

const lily_backend *lily_cpu_backend(void);

/* The properties of the processor that determine the instruction set and the number of threads of the CPU backend. */
typedef struct lily_processor {
  char instruction_sets[64]; /* supported sets with kernels, narrowest first, separated by spaces */
  int32_t affinity;          /* processors that this process may run on */
  int32_t quota;             /* CPU quota of the cgroup in whole processors; 0: no quota */
  int32_t physical_cores;    /* of the processors that this process may run on */
  char amx_refusal[96];      /* why the operating system does not permit the tile registers that the set in use needs;
                                empty: it permits them, or the set does not need them. The call requests them. */
} lily_processor;
void lily_cpu_processor(lily_processor *processor);

/* Float64 for the analysis of adapters; row-major. Each returns LILY_ERROR_OUT_OF_MEMORY if there is no memory for its
 * scratch, and LILY_ERROR_UNAVAILABLE as the other calls do. */
/* L [r, r], zero above the diagonal, of X X^T = L L^T, where X is [r, columns]. */
lily_status lily_cpu_gram_factor(const double *x, int64_t r, int64_t columns, double *l);
/* All eigenvalues of L^T (X X^T) L, the largest first. L [r, r] is zero above the diagonal, X is [r, columns]. */
lily_status lily_cpu_congruence_eigenvalues(const double *l, const double *x, int64_t r, int64_t columns,
                                            double *values);

#ifdef __cplusplus
}
#endif

#endif
