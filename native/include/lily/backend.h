/*
 * The C ABI that every backend implements.
 *
 * Plain structs, raw pointers, sizes, a stream, status codes: no N-API, no CUDA types, no C++ crosses it. The caller
 * owns all memory: it asks for a workspace size, which depends on the problem alone, and passes pointers. Matrices are
 * row-major, rows may have a pitch, and every pitch counts elements. Shapes and symbols are those of the README's
 * table: M tokens, r rank, E experts, G pooling groups.
 *
 * A backend trusts what it is given (the binding has checked it) except where it says so.
 */
#ifndef LILY_BACKEND_H
#define LILY_BACKEND_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Raised with every change of a struct or a meaning; a library of another version is refused when it is loaded. */
#define LILY_ABI_VERSION 4

typedef enum lily_status {
  LILY_OK = 0,
  LILY_ERROR_ARGUMENT = 1,      /* the caller's mistake, found by the backend */
  LILY_ERROR_UNSUPPORTED = 2,   /* legal, but this backend does not compute it */
  LILY_ERROR_UNAVAILABLE = 3,   /* no device, no driver, ... */
  LILY_ERROR_OUT_OF_MEMORY = 4, /* of the device, or of the host */
  LILY_ERROR_DEVICE = 5         /* the device's own error; lily_backend.last_error names it */
} lily_status;

typedef enum lily_dtype { LILY_FLOAT32 = 0, LILY_BFLOAT16 = 1, LILY_FLOAT16 = 2 } lily_dtype;

typedef enum lily_routing {
  LILY_ROUTING_BATCH = 0,
  LILY_ROUTING_SEQUENCE = 1,
  LILY_ROUTING_TOKEN = 2,
  LILY_ROUTING_UNIFORM = 3,
  LILY_ROUTING_FIXED = 4,
  /* LoRA: one expert, no router, and b is stored [d_out, r] as LoRA stores it. */
  LILY_ROUTING_NONE = 5
} lily_routing;

typedef enum lily_pool { LILY_POOL_PROBABILITIES = 0, LILY_POOL_LOGITS = 1 } lily_pool;

typedef enum lily_activation { LILY_ACTIVATION_NONE = 0, LILY_ACTIVATION_RELU = 1 } lily_activation;

typedef enum lily_precision {
  LILY_PRECISION_DEFAULT = 0,
  LILY_PRECISION_HIGH = 1,
  LILY_PRECISION_TF32 = 2
} lily_precision;

/* A stream handle of the backend, for CUDA a cudaStream_t (1 is its legacy stream, 2 the per-thread one); 0 is the
 * backend's own stream of the device. The CPU backend has none. */
typedef uintptr_t lily_stream;
typedef uintptr_t lily_event;
/* Recorded work, ready to be enqueued again and again. */
typedef uintptr_t lily_graph;

/* A row-major matrix; data == NULL says that the operand is absent. */
typedef struct lily_matrix {
  void *data;
  int64_t pitch;      /* elements from one row to the next */
  int32_t dtype;      /* lily_dtype */
  int32_t accumulate; /* of an output: 1 adds to the old contents, 0 overwrites them unread */
} lily_matrix;

/* All that a workspace size and a launch plan depend on. */
typedef struct lily_problem {
  int64_t tokens;  /* M >= 0 */
  int64_t d_in;    /* >= 1 */
  int64_t d_out;   /* >= 1 */
  int64_t rank;    /* r, 1 .. 4096 */
  int64_t experts; /* E, 1 .. 64; 1 with LILY_ROUTING_NONE */
  int64_t groups;  /* G: sequences of LILY_ROUTING_SEQUENCE and LILY_ROUTING_FIXED, else 1 */
  int32_t routing;
  int32_t pool;
  int32_t activation;
  int32_t precision;
  int32_t activation_dtype; /* of x, y, dy, dx; of hidden too but for float32 parameters with LILY_PRECISION_HIGH */
  int32_t parameter_dtype;  /* of a, router and b: float32 or activation_dtype */
  float scaling;            /* s */
  int32_t device;
} lily_problem;

/* What pooling knows of the tokens. Absent pointers are NULL. */
typedef struct lily_tokens {
  const uint8_t *mask;             /* [M], 1 keeps; of batch and sequence routing */
  const int32_t *sequence_offsets; /* [G + 1] from 0 to M, never decreasing; absent: one group of all tokens */
} lily_tokens;

/*
 * y (+)= s * phi(x a^T) C, where C mixes the experts of b as the routing says.
 *
 * hidden, probabilities and weights are what backward needs; each may be absent, then the value lives in the
 * workspace or is not made at all.
 */
typedef struct lily_forward {
  lily_problem problem;
  lily_tokens tokens;
  lily_matrix x;        /* M x d_in */
  lily_matrix a;        /* r x d_in */
  lily_matrix router;   /* E x r; absent where the routing has no router */
  lily_matrix b;        /* E*r x d_out; d_out x r with LILY_ROUTING_NONE */
  lily_matrix y;        /* M x d_out, out */
  void *hidden;         /* M x r, contiguous, activation_dtype (see there), out: after phi */
  float *probabilities; /* M x E, contiguous, out: token routing, and pooling of probabilities */
  float *weights;       /* G x E, contiguous; out, but in with LILY_ROUTING_FIXED, where it is required */
  void *workspace;
  size_t workspace_bytes;
  lily_stream stream;
} lily_forward;

/* Gradients of lily_forward. An absent output is not computed. */
typedef struct lily_backward {
  lily_problem problem;
  lily_tokens tokens;
  lily_matrix dy;              /* M x d_out */
  lily_matrix x, a, router, b; /* as in forward */
  const void *hidden;          /* as forward left them */
  const float *probabilities;
  const float *weights;
  lily_matrix dx;       /* M x d_in, out */
  lily_matrix da;       /* r x d_in, out */
  lily_matrix d_router; /* E x r, out */
  lily_matrix db;       /* shape of b, out; absent where deferred_db is given */
  float *deferred_db;   /* min(G, E) x r x d_out (E x r x d_out with token routing), contiguous, out; see lily_fold */
  void *workspace;
  size_t workspace_bytes;
  lily_stream stream;
} lily_backward;

/* One layer's deferred gradient of the shared b. */
typedef struct lily_deferred {
  const float *partial; /* deferred_db of its backward */
  const float *weights; /* [groups, E]: partial holds D_g. NULL: it holds sum_g w_ge D_g, one per expert */
  int64_t groups;       /* r x d_out matrices in partial */
} lily_deferred;

/* db_e (+)= sum over layers, in order, and over their groups, in order, of w_ge D_g. */
typedef struct lily_fold {
  int64_t rank, experts, d_out;
  const lily_deferred *layers;
  int64_t layer_count;
  lily_matrix db; /* E*r x d_out */
  int32_t device;
  lily_stream stream;
} lily_fold;

/* One parameter of lily_adamw. All arrays are contiguous and have `count` elements. */
typedef struct lily_adamw_parameter {
  void *value;       /* in and out */
  const void *grad;  /* read only: clipping does not write the scaled gradient back */
  float *exp_avg;    /* in and out: m, the running mean of the gradient */
  float *exp_avg_sq; /* in and out: v, that of its square */
  int64_t count;
  int32_t value_dtype;
  int32_t grad_dtype; /* value_dtype or float32 */
  double lr, weight_decay;
} lily_adamw_parameter;

/*
 * One step of AdamW (arXiv 1711.05101, as PyTorch computes it) for all parameters; all arrays are apart in memory.
 *
 *   g     = grad * min(1, max_norm / (norm + 1e-6)), norm = |all gradients| as one vector; without `norm` g = grad
 *   m     = beta1 m + (1 - beta1) g
 *   v     = beta2 v + (1 - beta2) g^2
 *   value = (1 - lr weight_decay) value - lr / (1 - beta1^step) m / (sqrt(v) / sqrt(1 - beta2^step) + eps)
 *
 * Arithmetic is float32, and a value of 16 bits is rounded once, to nearest even. A norm that is not finite is not
 * caught: one of infinity makes g zero (NaN where it was infinite), one of NaN makes everything NaN.
 */
typedef struct lily_adamw {
  const lily_adamw_parameter *parameters; /* of the host; their arrays are the device's */
  int64_t parameter_count;
  double beta1, beta2, eps;
  int64_t step; /* this one, from 1 */
  float *norm;  /* 1 number, out: before clipping; absent: nothing is clipped */
  float max_norm;
  int32_t device;
  void *workspace;
  size_t workspace_bytes;
  lily_stream stream;
} lily_adamw;

typedef struct lily_device_info {
  char name[128];
  char detail[64];       /* the instruction set of a CPU, the compute capability of a GPU */
  uint64_t memory_bytes; /* 0: unknown */
  uint64_t cache_bytes;  /* of the cache before memory; 0: unknown */
  int32_t parallelism;   /* threads that the CPU backend uses, multiprocessors of a GPU */
} lily_device_info;

typedef enum lily_memory_kind {
  LILY_MEMORY_HOST = 0,   /* or not known to the backend */
  LILY_MEMORY_PINNED = 1, /* of the host, and reachable by devices */
  LILY_MEMORY_DEVICE = 2,
  LILY_MEMORY_MANAGED = 3 /* migrates between host and devices */
} lily_memory_kind;

/* What an address is of. */
typedef struct lily_pointer_info {
  int32_t kind;   /* lily_memory_kind */
  int32_t device; /* of device and managed memory */
} lily_pointer_info;

/* What a device can do at most, measured when asked: the roofs that a benchmark holds its times against. */
typedef enum lily_roof {
  LILY_ROOF_MULTIPLY_ADD = 0, /* float32 FLOP/s of multiply-adds that wait for nothing */
  LILY_ROOF_READ = 1,         /* bytes/s of reading a buffer again and again */
  LILY_ROOF_UPDATE = 2,       /* bytes/s, read and written, of adding to a buffer in place */
  LILY_ROOF_BFLOAT16 = 3      /* FLOP/s of multiply-adds of bfloat16 into float32, as fast as the device has them */
} lily_roof;

/* A backend: a table of functions, constant for the life of the process. */
typedef struct lily_backend {
  uint32_t abi_version; /* LILY_ABI_VERSION of the library's build */
  const char *name;     /* "cpu", "cuda" */

  /* The message of this thread's last call that did not return LILY_OK, and the device's own name of the error
   * ("cudaErrorIllegalAddress"), "" where there is none. */
  const char *(*last_error)(void);
  const char *(*last_error_name)(void);

  lily_status (*device_count)(int32_t *count); /* LILY_ERROR_UNAVAILABLE: last_error says why */
  lily_status (*device_info)(int32_t device, lily_device_info *info);

  /* Runs for some milliseconds and gives the best rate seen. `bytes`: the size of the buffer, of no meaning to
   * LILY_ROOF_MULTIPLY_ADD. */
  lily_status (*measure_roof)(int32_t device, int32_t roof, size_t bytes, double *rate);

  /* Bytes of the workspace, aligned to 64, for any call with this problem, whatever its operands. */
  lily_status (*forward_workspace)(const lily_problem *problem, size_t *bytes);
  lily_status (*forward)(const lily_forward *call);
  lily_status (*backward_workspace)(const lily_problem *problem, size_t *bytes);
  lily_status (*backward)(const lily_backward *call);
  lily_status (*fold)(const lily_fold *call);
  lily_status (*adamw_workspace)(const lily_adamw *call, size_t *bytes); /* looks at the counts alone */
  lily_status (*adamw)(const lily_adamw *call);

  /* Memory of a device, and of the host where a device copies to and from without waiting; both aligned to 64 bytes
   * at least. */
  lily_status (*allocate)(int32_t device, size_t bytes, void **memory);
  lily_status (*release)(int32_t device, void *memory);
  lily_status (*allocate_pinned)(int32_t device, size_t bytes, void **memory);
  lily_status (*release_pinned)(int32_t device, void *memory);
  lily_status (*pointer_info)(const void *pointer, lily_pointer_info *info);

  /* Only enqueued, as the operations are: memory of the host must be pinned and stay as it is until the
   * stream has passed. */
  lily_status (*copy)(int32_t device, void *destination, const void *source, size_t bytes, lily_stream stream);
  lily_status (*fill)(int32_t device, void *destination, uint8_t value, size_t bytes, lily_stream stream);

  /* Streams and events of a device. The CPU backend's calls are done when they return: its streams and events are
   * always ready. */
  lily_status (*stream_default)(int32_t device, lily_stream *stream); /* the handle behind 0 */
  lily_status (*stream_create)(int32_t device, lily_stream *stream);
  lily_status (*stream_destroy)(int32_t device, lily_stream stream);
  lily_status (*stream_wait_event)(int32_t device, lily_stream stream, lily_event event); /* the event of any device */
  lily_status (*event_create)(int32_t device, int32_t timing, lily_event *event);
  lily_status (*event_destroy)(int32_t device, lily_event event);
  lily_status (*event_record)(int32_t device, lily_event event, lily_stream stream);
  lily_status (*event_query)(int32_t device, lily_event event, int32_t *ready);
  lily_status (*event_synchronize)(int32_t device, lily_event event);
  /* Between two recorded events with timing whose streams have passed them. */
  lily_status (*event_elapsed)(int32_t device, lily_event start, lily_event end, float *milliseconds);

  /* Between begin and end the stream records what it is given instead of doing it. It may not be the device's own, and
   * may wait for no other stream meanwhile; allocations and the work of other streams are not its concern. What the
   * record reads and writes must stay for as long as it is launched. A record that has failed makes no graph. The CPU
   * backend has none: LILY_ERROR_UNSUPPORTED. */
  lily_status (*capture_begin)(int32_t device, lily_stream stream);
  lily_status (*capture_end)(int32_t device, lily_stream stream, lily_graph *graph);
  lily_status (*graph_launch)(int32_t device, lily_graph graph, lily_stream stream);
  lily_status (*graph_destroy)(int32_t device, lily_graph graph);

  /* Waits for all work and gives back what the backend keeps for itself, its own streams for one. It may be used again
   * afterwards. */
  lily_status (*close)(void);
} lily_backend;

/* The CPU backend, built into the addon. */
const lily_backend *lily_cpu_backend(void);

/* What the CPU backend has found of the processor: why it runs as it does. No library in between, so no part of the
 * ABI's version. */
typedef struct lily_processor {
  char instruction_sets[64]; /* those that it has kernels for, narrowest first, separated by spaces */
  int32_t affinity;          /* processors that this process may run on */
  int32_t quota;             /* whole processors of the cgroup's quota; 0: there is none */
  int32_t physical_cores;    /* of the machine */
} lily_processor;
void lily_cpu_processor(lily_processor *processor);

/* The one symbol that a backend in a library of its own exports. NULL: it was built for another ABI version. */
typedef const lily_backend *(*lily_backend_entry)(uint32_t abi_version);
#define LILY_BACKEND_ENTRY "lily_backend_get"

#ifdef __cplusplus
}
#endif

#endif
