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

/* A frozen linear layer (lily_linear_problem) may also have a parameter_dtype of 16 bits under float32 activations: the
 * weight is converted exactly, and the results have the bits of the same weight in float32. Its bias may be 1 x d_in if
 * `transposed`, and in float32 beside a weight of 16 bits. */
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

/* Batched matrix products: y (+)= op(a) op(b) + bias for each of outer x inner pairs of matrices, where op(a) is [m, k]
 * and op(b) is [k, n]. Rows of a matrix are one pitch apart. A row of y has the same bits for any number of other rows,
 * of matrices and of threads. */
typedef struct lily_matmul_problem {
  int64_t outer, inner; /* counts of batches, in two dimensions because either operand may repeat along either */
  int64_t m, k, n;
  int32_t transpose_a; /* 1: a is stored as [k, m]; 0: [m, k] */
  int32_t transpose_b; /* 1: b is stored as [n, k]; 0: [k, n] */
  int32_t precision;   /* lily_precision */
  int32_t dtype;       /* of a, b, bias and y: lily_dtype */
} lily_matmul_problem;

typedef struct lily_matmul {
  lily_matmul_problem problem;
  lily_matrix a, b;                   /* the first matrices */
  int64_t a_strides[2], b_strides[2]; /* elements from one matrix to the next, outer and inner; 0: it repeats */
  lily_matrix bias;                   /* [1, n]; data NULL: none */
  lily_matrix y;                      /* [outer * inner * m, n] */
  void *workspace;
  size_t workspace_bytes;
} lily_matmul;
lily_status lily_cpu_matmul_workspace(const lily_matmul_problem *problem, size_t *bytes);
lily_status lily_cpu_matmul(const lily_matmul *call);

/* A function of each element in float32, y = f(a, b), or the scaled sum of each row of a. Results have the same bits
 * for every number of threads. */
typedef enum lily_elementwise_function {
  LILY_ELEMENTWISE_ADD = 0,
  LILY_ELEMENTWISE_SUBTRACT = 1, /* a - b */
  LILY_ELEMENTWISE_MULTIPLY = 2,
  LILY_ELEMENTWISE_DIVIDE = 3,  /* a / b */
  LILY_ELEMENTWISE_SIGMOID = 4, /* 1 / (1 + exp(-a)); b is absent */
  LILY_ELEMENTWISE_ROW_SUM = 5  /* scale times the sum of the row of a; b is absent, and y has one column */
} lily_elementwise_function;

typedef struct lily_elementwise {
  int64_t rows, columns;
  int32_t function;             /* lily_elementwise_function */
  int32_t a_repeats, b_repeats; /* 1: the operand has one column, which repeats */
  float scale;
  lily_matrix a, b; /* pitch 0: the row repeats */
  lily_matrix y;
} lily_elementwise;
lily_status lily_cpu_elementwise(const lily_elementwise *call);

/* Float64 for the analysis of adapters; row-major. Each returns LILY_ERROR_OUT_OF_MEMORY if there is no memory for its
 * scratch, and LILY_ERROR_UNAVAILABLE as the other calls do. */
/* L [r, r], zero above the diagonal, of X X^T = L L^T, where X is [r, columns]. */
lily_status lily_cpu_gram_factor(const double *x, int64_t r, int64_t columns, double *l);
/* All eigenvalues of L^T (X X^T) L, the largest first. L [r, r] is zero above the diagonal, X is [r, columns]. */
lily_status lily_cpu_congruence_eigenvalues(const double *l, const double *x, int64_t r, int64_t columns,
                                            double *values);

/* Scaled dot-product attention: per item of the batch and head
 *
 *   y = softmax(scale q k^T) v     over the keys that a query sees
 *
 * A head is d_head columns of all matrices. A query that sees no key has a y of zeros. */
typedef struct lily_cpu_attention_problem {
  int64_t batch;  /* >= 0 */
  int64_t tokens; /* queries of an item of the batch, >= 0 */
  int64_t keys;   /* of an item of the batch, >= 0 */
  int64_t heads;  /* >= 1 */
  int64_t d_head; /* >= 1 */
  float scale;
  int32_t causal; /* 1: query i sees the keys up to i + keys - tokens, so that the last query sees all; 0: all keys */
} lily_cpu_attention_problem;

/* All matrices are float32. Results have the same bits for every number of threads, and the results of an item of the
 * batch do not depend on other items. */
typedef struct lily_cpu_attention {
  lily_cpu_attention_problem problem;
  lily_matrix q;       /* batch * tokens x heads * d_head */
  lily_matrix k, v;    /* batch * keys x heads * d_head */
  const uint8_t *mask; /* batch x keys: no query sees a key with 0; NULL: all keys count */
  lily_matrix y;       /* out: as q */
  float *statistics;   /* out: batch * heads x 2 x tokens, what backward reads beside y; may be NULL */
  void *workspace;
  size_t workspace_bytes;
} lily_cpu_attention;

typedef struct lily_cpu_attention_backward {
  lily_cpu_attention_problem problem;
  lily_matrix dy; /* as q */
  lily_matrix q, k, v;
  const uint8_t *mask;
  lily_matrix y; /* as forward writes it, without old contents */
  const float *statistics;
  lily_matrix dq, dk, dv; /* out: as q, k and v; each may be absent */
  void *workspace;
  size_t workspace_bytes;
} lily_cpu_attention_backward;

/* As the functions of lily_backend. */
lily_status lily_cpu_attention_workspace(const lily_cpu_attention_problem *problem, size_t *bytes);
lily_status lily_cpu_attention_forward(const lily_cpu_attention *call);
lily_status lily_cpu_attention_backward_workspace(const lily_cpu_attention_problem *problem, size_t *bytes);
lily_status lily_cpu_attention_backward_run(const lily_cpu_attention_backward *call);

#ifdef __cplusplus
}
#endif

#endif
