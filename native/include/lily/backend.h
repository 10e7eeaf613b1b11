/*
 * The C ABI that every backend implements.
 *
 * It consists of plain structs, raw pointers, sizes, streams and status codes; it has no Node-API, CUDA or C++ types.
 * The caller owns all memory, including the workspace, whose size depends on the problem alone. Matrices are row-major,
 * and every pitch counts elements. docs/math.md defines the symbols: M tokens, r rank, E experts, G pooling
 * groups.
 *
 * The binding validates all operands. A backend does not validate them again, except where noted.
 */
#ifndef LILY_BACKEND_H
#define LILY_BACKEND_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Incremented with every change of a struct or its meaning. A library of another version is rejected at load time. */
#define LILY_ABI_VERSION 11

typedef enum lily_status {
  LILY_OK = 0,
  LILY_ERROR_ARGUMENT = 1,      /* an invalid argument that the backend detected */
  LILY_ERROR_UNSUPPORTED = 2,   /* valid, but this backend does not implement it */
  LILY_ERROR_UNAVAILABLE = 3,   /* no device, no driver, ... */
  LILY_ERROR_OUT_OF_MEMORY = 4, /* device or host memory */
  LILY_ERROR_DEVICE = 5         /* an error of the device API; see lily_backend.last_error */
} lily_status;

typedef enum lily_dtype { LILY_FLOAT32 = 0, LILY_BFLOAT16 = 1, LILY_FLOAT16 = 2 } lily_dtype;

typedef enum lily_routing {
  LILY_ROUTING_BATCH = 0,
  LILY_ROUTING_SEQUENCE = 1,
  LILY_ROUTING_TOKEN = 2,
  LILY_ROUTING_UNIFORM = 3,
  LILY_ROUTING_FIXED = 4,
  /* LoRA: one expert, no router, and b is [d_out, r], the layout of LoRA checkpoints. */
  LILY_ROUTING_NONE = 5,
  /* The weights are softmax(z) of E logits z, which are parameters: router is E x 1. */
  LILY_ROUTING_LEARNED = 6
} lily_routing;

typedef enum lily_pool { LILY_POOL_PROBABILITIES = 0, LILY_POOL_LOGITS = 1 } lily_pool;

typedef enum lily_activation { LILY_ACTIVATION_NONE = 0, LILY_ACTIVATION_RELU = 1 } lily_activation;

typedef enum lily_precision {
  LILY_PRECISION_DEFAULT = 0,
  LILY_PRECISION_HIGH = 1,
  LILY_PRECISION_TF32 = 2
} lily_precision;

/* A stream handle. For CUDA it is a cudaStream_t, where 1 is the legacy default stream and 2 the per-thread default
 * stream; 0 is the stream that the backend creates per device. The CPU backend has no streams. */
typedef uintptr_t lily_stream;
typedef uintptr_t lily_event;
/* An executable graph of captured work. */
typedef uintptr_t lily_graph;

/* A row-major matrix; data == NULL: the operand is absent. */
typedef struct lily_matrix {
  void *data;
  int64_t pitch;      /* elements from one row to the next */
  int32_t dtype;      /* lily_dtype */
  int32_t accumulate; /* of an output: 1 adds to the old contents, 0 overwrites them without reading them */
} lily_matrix;

/* The parameters that determine the workspace size and the plan of a call. */
typedef struct lily_problem {
  int64_t tokens;          /* M >= 0 */
  int64_t d_in;            /* >= 1 */
  int64_t d_out;           /* >= 1 */
  int64_t rank;            /* r, 1 .. 4096 */
  int64_t experts;         /* E, 1 .. 64; 1 with LILY_ROUTING_NONE */
  int64_t groups;          /* G: number of sequences with LILY_ROUTING_SEQUENCE and LILY_ROUTING_FIXED, otherwise 1 */
  int64_t multiprocessors; /* that the plan for a device counts, at most; 0: all. With one, a small problem has the
                              tiles of a large one, for the self-test */
  int32_t routing;
  int32_t pool;
  int32_t activation;
  int32_t precision;
  int32_t activation_dtype; /* of x, y, dy, dx, and of hidden; hidden is float32 with float32 parameters and
                               LILY_PRECISION_HIGH */
  int32_t parameter_dtype;  /* of a, router and b: float32 or activation_dtype */
  float scaling;            /* s */
  int32_t device;
  int32_t unaligned; /* 1: x, dy, a, b or hidden may have rows that do not begin at multiples of 16 bytes, although they
                        consist of whole 16 bytes: the workspace has room for copies of them */
  uint32_t dropout;  /* n, 0 .. 65535: elements of x whose random number of 16 bits is below n are dropped; 0: none */
} lily_problem;

/* The mask, the sequences, the rows, the factors and the draw of dropout of the tokens. Absent pointers are NULL. */
typedef struct lily_tokens {
  const uint8_t *mask;             /* [M], 1 keeps the token; for batch and sequence routing */
  const int32_t *sequence_offsets; /* [G + 1], from 0 to M, non-decreasing; absent: one group of all tokens. On a device
                                      no group contains tokens before the first offset and after the last: they have the
                                      weights 0 and no gradient. On the CPU there are no such tokens */
  const int32_t *rows;  /* [M], ascending, in calls of lily_forward_rows and lily_backward_rows: token t is row rows[t]
                           of x, y, dy and dx. hidden, probabilities, mask and scale have one element or row for each
                           token. Absent: token t is row t. On a device they may be any numbers: kernels take the
                           nearest row of the list */
  const float *scale;   /* [M], in the same calls: c_t, by which y_t and, in backward, dy_t are multiplied; absent: 1 */
  const uint32_t *draw; /* [4], in memory of the device: seed low and high, position low and high. The mask of dropout
                           follows from them (docs/math.md); present if problem.dropout is not 0, and the same in
                           forward and backward */
} lily_tokens;

/*
 * y (+)= s * phi(x a^T) C, where C combines the experts of b according to the routing.
 *
 * hidden, probabilities and weights are inputs of backward. If one of them is absent, its value is kept in the
 * workspace or not computed.
 */
typedef struct lily_forward {
  lily_problem problem;
  lily_tokens tokens;
  lily_matrix x;        /* M x d_in */
  lily_matrix a;        /* r x d_in */
  lily_matrix router;   /* E x r; E x 1 with LILY_ROUTING_LEARNED; absent if the routing has no router */
  lily_matrix b;        /* E*r x d_out; d_out x r with LILY_ROUTING_NONE */
  lily_matrix y;        /* M x d_out, out */
  void *hidden;         /* M x r, contiguous, see activation_dtype; out: after phi */
  float *probabilities; /* M x E, contiguous; out: with token routing, and with LILY_POOL_PROBABILITIES */
  float *weights;       /* G x E, contiguous; out; with LILY_ROUTING_FIXED a required input */
  /* [G + 1], any numbers, for backends of devices: the call writes them to tokens.sequence_offsets, each as the largest
   * of those up to it, from 0 to M. Absent: tokens.sequence_offsets are valid. */
  const int32_t *unchecked_offsets;
  void *workspace;
  size_t workspace_bytes;
  lily_stream stream;
} lily_forward;

/* The gradients of lily_forward. An absent output is not computed. */
typedef struct lily_backward {
  lily_problem problem;
  lily_tokens tokens;
  lily_matrix dy;              /* M x d_out */
  lily_matrix x, a, router, b; /* as in forward */
  const void *hidden;          /* as written by forward */
  const float *probabilities;
  const float *weights;
  lily_matrix dx;        /* M x d_in, out */
  lily_matrix da;        /* r x d_in, out */
  lily_matrix d_router;  /* shape of router, out */
  lily_matrix db;        /* shape of b, out; absent if deferred_db is given */
  lily_matrix d_weights; /* G x E, float32, out; with LILY_ROUTING_FIXED alone: <B_e, D_g> */
  float *deferred_db;    /* min(G, E) x r x d_out (E x r x d_out with token routing), contiguous, out; see lily_fold */
  void *workspace;
  size_t workspace_bytes;
  lily_stream stream;
} lily_backward;

/*
 * Calls over disjoint rows of one x and one y: many adapters in one call. They have one device, stream, d_in, d_out,
 * precision and types; problem.tokens of a call is the number of its own rows, which may be 0. The bits of y and of
 * the saved arrays are the same as in separate calls.
 *
 * A call whose rows are one run may have no tokens.rows: its x and y then begin at its first row.
 */
typedef struct lily_forward_rows {
  lily_forward *calls; /* in host memory; the backend may set their workspaces */
  int64_t count;
  int64_t tokens;      /* rows of x and y */
  int64_t d_in, d_out; /* their columns */
  lily_matrix x, y;    /* all rows: the memory of x and y of the calls */
  const int32_t *rest; /* [rest_count], the rows that no call has. If y is overwritten, they become 0 */
  int64_t rest_count;
  int32_t device; /* and stream: the same in all calls */
  void *workspace;
  size_t workspace_bytes;
  lily_stream stream;
} lily_forward_rows;

/* The same for backward, with dy in the place of y, and rows of dx that become 0. No call has deferred_db, and either
 * all of them have dx or none. */
typedef struct lily_backward_rows {
  lily_backward *calls;
  int64_t count;
  int64_t tokens, d_in, d_out;
  lily_matrix dy, x, dx;
  const int32_t *rest;
  int64_t rest_count;
  int32_t device;
  void *workspace;
  size_t workspace_bytes;
  lily_stream stream;
} lily_backward_rows;

/* The deferred gradient of the shared b from one layer. */
typedef struct lily_deferred {
  const float *partial; /* deferred_db of its backward */
  const float *weights; /* [groups, E]: partial holds one D_g per group; NULL: it holds one sum_g w_ge D_g per expert */
  int64_t groups;       /* r x d_out matrices in partial */
} lily_deferred;

/* db_e (+)= sum over the layers and their groups, both in order, of w_ge D_g. */
typedef struct lily_fold {
  int64_t rank, experts, d_out;
  const lily_deferred *layers;
  int64_t layer_count;
  lily_matrix db; /* E*r x d_out */
  int32_t device;
  lily_stream stream;
} lily_fold;

/* Takes a draw of dropout in the order of the stream: draw = state, then the position, the last two words of state with
 * the low one first, increases by 1. Replays of a graph that has captured the call take one each. */
typedef struct lily_draw {
  uint32_t *state; /* [4], in memory of the device, like draw; see lily_tokens */
  uint32_t *draw;  /* [4], out */
  int32_t device;
  lily_stream stream;
} lily_draw;

/* The sizes, the types and the direction of a product with the frozen weight W of a linear layer. */
typedef struct lily_linear_problem {
  int64_t tokens;     /* M >= 0 */
  int64_t d_in;       /* >= 1 */
  int64_t d_out;      /* >= 1 */
  int32_t transposed; /* 0: y (+)= x W^T + bias, x is M x d_in and y is M x d_out;
                         1: y (+)= x W, which is dx (+)= dy W: x is M x d_out and y is M x d_in */
  int32_t precision;
  int32_t activation_dtype; /* of x and y */
  int32_t parameter_dtype;  /* of W: float32 or activation_dtype, or 16 bits under float32 */
  int32_t device;
  int32_t unaligned; /* as in lily_problem, of x and W */
} lily_linear_problem;

/*
 * The sums are float32, and y is rounded once. A row of y depends on its row of x alone. Where cuBLASLt computes it,
 * its bits also depend on M.
 */
typedef struct lily_linear {
  lily_linear_problem problem;
  lily_matrix x;
  lily_matrix weight; /* d_out x d_in, in both directions */
  const void *packed; /* the weight as linear_pack has written it for this problem; NULL: none */
  lily_matrix bias;   /* 1 x d_out; may be absent; absent if transposed */
  lily_matrix y;      /* out */
  void *workspace;
  size_t workspace_bytes;
  lily_stream stream;
} lily_linear;

/* One parameter of lily_adamw. All arrays are contiguous and have `count` elements. */
typedef struct lily_adamw_parameter {
  void *value;       /* in and out */
  const void *grad;  /* in: clipping does not modify it */
  float *exp_avg;    /* in and out: m, the running average of the gradient */
  float *exp_avg_sq; /* in and out: v, the running average of its square */
  int64_t count;
  int32_t value_dtype;
  int32_t grad_dtype; /* value_dtype or float32 */
  double lr, weight_decay;
} lily_adamw_parameter;

/*
 * One step of AdamW (arXiv 1711.05101, with the formula of PyTorch) for all parameters. The arrays must not overlap.
 *
 *   g     = grad * min(1, max_norm / (norm + 1e-6)), norm = |all gradients| as one vector; without `norm` g = grad
 *   m     = beta1 m + (1 - beta1) g
 *   v     = beta2 v + (1 - beta2) g^2
 *   value = (1 - lr weight_decay) value - lr / (1 - beta1^step) m / (sqrt(v) / sqrt(1 - beta2^step) + eps)
 *
 * The arithmetic is float32; a 16-bit value is rounded once, to nearest even. With `skipped`, a call whose gradients
 * are not all finite writes nothing but `norm` and `skipped`, and `step` in the formula is the number of calls that
 * were not skipped. A GPU adds the squares in float32: it also skips a call whose norm overflows. Without `skipped` an
 * infinite norm makes g zero (NaN for infinite elements), and a NaN norm makes all values NaN.
 */
typedef struct lily_adamw {
  const lily_adamw_parameter *parameters; /* in host memory; their arrays are in device memory */
  int64_t parameter_count;
  double beta1, beta2, eps;
  int64_t step;   /* the number of this call, starting at 1; skipped calls count */
  float *norm;    /* 1 element, out: the norm before clipping; absent: no clipping */
  float *skipped; /* 1 element, in and out: the number of calls that were skipped; absent: none is */
  float max_norm;
  int32_t device;
  void *workspace;
  size_t workspace_bytes;
  lily_stream stream;
} lily_adamw;

/* Numbers of devices are below this: an upper bound on the devices of one machine. */
#define LILY_MAX_DEVICES 64

typedef struct lily_device_info {
  char name[128];
  char detail[64];       /* the instruction set of a CPU, the compute capability of a GPU */
  char without[16];      /* the instructions that device_fall_back turned off; "": none */
  uint64_t memory_bytes; /* 0: unknown */
  uint64_t cache_bytes;  /* of the last-level cache; 0: unknown */
  int32_t parallelism;   /* threads of the CPU backend, multiprocessors of a GPU */
} lily_device_info;

typedef enum lily_memory_kind {
  LILY_MEMORY_HOST = 0,   /* or memory of unknown origin */
  LILY_MEMORY_PINNED = 1, /* page-locked host memory that devices can access */
  LILY_MEMORY_DEVICE = 2,
  LILY_MEMORY_MANAGED = 3 /* migrates between host and devices */
} lily_memory_kind;

/* The kind of memory at an address. */
typedef struct lily_pointer_info {
  int32_t kind;   /* lily_memory_kind */
  int32_t device; /* for device and managed memory */
} lily_pointer_info;

/* Upper bounds of the performance of a device (the roofs of a roofline model), which measure_roof measures. */
typedef enum lily_roof {
  LILY_ROOF_MULTIPLY_ADD = 0, /* FLOP/s of independent float32 multiply-adds */
  LILY_ROOF_READ = 1,         /* bytes/s of repeatedly reading a buffer */
  LILY_ROOF_UPDATE = 2,       /* bytes/s of adding to a buffer in place; counts bytes read and bytes written */
  LILY_ROOF_BFLOAT16 = 3,     /* FLOP/s of bfloat16 multiply-adds with float32 sums, on the units that kernels use */
  LILY_ROOF_PRODUCT = 4 /* FLOP/s of a large bfloat16 product with float32 sums, by the library of the vendor of the
                           device (cuBLASLt); LILY_ERROR_UNAVAILABLE if it is not installed */
} lily_roof;

/* A backend: a table of functions that does not change during the life of the process. */
typedef struct lily_backend {
  uint32_t abi_version; /* LILY_ABI_VERSION at the time the library was built */
  const char *name;     /* "cpu", "cuda" */

  /* The message of the last call on this thread that did not return LILY_OK, and the device API's name of that error,
   * such as "cudaErrorIllegalAddress"; "" if it is not an error of the device API. */
  const char *(*last_error)(void);
  const char *(*last_error_name)(void);

  lily_status (*device_count)(int32_t *count); /* LILY_ERROR_UNAVAILABLE: see last_error */
  lily_status (*device_info)(int32_t device, lily_device_info *info);
  /* Whether calls on the device can run: it exists, it accepts this process, and no other code of the process has
   * destroyed what was created on it. The first call for a device prepares it, which takes time and memory of the
   * device; device_count and device_info do not. */
  lily_status (*device_ready)(int32_t device);
  /* From now on the device computes without the instructions for which the backend has other, slower code: after wrong
   * results. LILY_ERROR_UNSUPPORTED: there are none, or it does so already. */
  lily_status (*device_fall_back)(int32_t device);

  /* Runs for some milliseconds and returns the best rate. `bytes` is the size of the buffer; LILY_ROOF_READ and
   * LILY_ROOF_UPDATE alone use it. */
  lily_status (*measure_roof)(int32_t device, int32_t roof, size_t bytes, double *rate);

  /* The size in bytes of a workspace that is enough for any call with this problem. The workspace must be aligned to 64
   * bytes. */
  lily_status (*forward_workspace)(const lily_problem *problem, size_t *bytes);
  lily_status (*forward)(const lily_forward *call);
  lily_status (*backward_workspace)(const lily_problem *problem, size_t *bytes);
  lily_status (*backward)(const lily_backward *call);
  /* The size depends on what a list has beside its matrices: on count, tokens and rest_count, and on the problems of
   * its calls and whether tokens.rows and tokens.scale of each are given. The size depends on nothing else. */
  lily_status (*forward_rows_workspace)(const lily_forward_rows *list, size_t *bytes);
  lily_status (*forward_rows)(const lily_forward_rows *list);
  lily_status (*backward_rows_workspace)(const lily_backward_rows *list, size_t *bytes);
  lily_status (*backward_rows)(const lily_backward_rows *list);
  lily_status (*fold)(const lily_fold *call);
  lily_status (*draw)(const lily_draw *call); /* NULL on the CPU, where the caller draws */
  lily_status (*linear_workspace)(const lily_linear_problem *problem, size_t *bytes);
  lily_status (*linear)(const lily_linear *call);
  /* The size of the packed form of a weight that such a call uses; 0: it uses none. It should be aligned to 64 bytes,
   * for speed. It is valid for every number of tokens, and otherwise for this problem on this device in this process
   * only. linear_pack reads the problem and the weight of the call, and needs no workspace. */
  lily_status (*linear_packed_bytes)(const lily_linear_problem *problem, size_t *bytes);
  lily_status (*linear_pack)(const lily_linear *call, void *packed);
  lily_status (*adamw_workspace)(const lily_adamw *call, size_t *bytes); /* reads the counts alone */
  lily_status (*adamw)(const lily_adamw *call);

  /* Device memory, and page-locked host memory, which asynchronous copies require. Both are aligned to at least 64
   * bytes. */
  lily_status (*allocate)(int32_t device, size_t bytes, void **memory);
  lily_status (*release)(int32_t device, void *memory);
  lily_status (*allocate_pinned)(int32_t device, size_t bytes, void **memory);
  lily_status (*release_pinned)(int32_t device, void *memory);
  /* Asks `device`; the memory may be on another device. */
  lily_status (*pointer_info)(int32_t device, const void *pointer, lily_pointer_info *info);

  /* Enqueued on the stream, like the operations. Host memory must be page-locked, and must not change until the stream
   * has completed the copy. */
  lily_status (*copy)(int32_t device, void *destination, const void *source, size_t bytes, lily_stream stream);
  lily_status (*fill)(int32_t device, void *destination, uint8_t value, size_t bytes, lily_stream stream);

  /* Streams and events of a device. Calls of the CPU backend are complete when they return, so its streams and events
   * are always ready. */
  lily_status (*stream_default)(int32_t device, lily_stream *stream); /* the handle that 0 stands for */
  lily_status (*stream_create)(int32_t device, lily_stream *stream);
  lily_status (*stream_destroy)(int32_t device, lily_stream stream);
  lily_status (*stream_wait_event)(int32_t device, lily_stream stream, lily_event event); /* an event of any device */
  lily_status (*event_create)(int32_t device, int32_t timing, lily_event *event);
  lily_status (*event_destroy)(int32_t device, lily_event event);
  lily_status (*event_record)(int32_t device, lily_event event, lily_stream stream);
  lily_status (*event_query)(int32_t device, lily_event event, int32_t *ready);
  lily_status (*event_synchronize)(int32_t device, lily_event event);
  /* The time between two recorded and completed events that were created with timing. */
  lily_status (*event_elapsed)(int32_t device, lily_event start, lily_event end, float *milliseconds);

  /* Between capture_begin and capture_end, the work on the stream is captured instead of executed. The stream must not
   * be the stream that 0 stands for, and must not wait for another stream during the capture. Allocations and the work
   * of other streams do not affect the capture. The memory that a graph accesses must exist as long as the graph is
   * launched. A capture that fails creates no graph. The CPU backend returns LILY_ERROR_UNSUPPORTED. */
  lily_status (*capture_begin)(int32_t device, lily_stream stream);
  lily_status (*capture_end)(int32_t device, lily_stream stream, lily_graph *graph);
  lily_status (*graph_launch)(int32_t device, lily_graph graph, lily_stream stream);
  lily_status (*graph_destroy)(int32_t device, lily_graph graph);

  /* Waits for all work and releases the resources that the backend holds, such as its streams. The backend may be used
   * again afterwards. */
  lily_status (*close)(void);
} lily_backend;

/* The only symbol that a separate backend library exports. It returns NULL if the library was built for another ABI
 * version. */
typedef const lily_backend *(*lily_backend_entry)(uint32_t abi_version);
#define LILY_BACKEND_ENTRY "lily_backend_get"

#ifdef __cplusplus
}
#endif

#endif
