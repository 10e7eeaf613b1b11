/*
 * Stands for cuBLASLt on the emulator: it multiplies in stream order, on the host, and writes what it is asked for as lines
 * of JSON to the file LILY_TEST_CUBLASLT_LOG, or to stderr.
 *
 * LILY_TEST_CUBLASLT_FAULT is what fails: `create`, `none` (there is no algorithm), or the status of products. Compiled with WITHOUT_HEURISTIC, it lacks a function. What calls allocate is never released.
 */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FLOAT32 = 0, FLOAT16 = 2, BFLOAT16 = 14 };
enum { DEVICE_TO_HOST = 2, HOST_TO_DEVICE = 1 };
enum { SUCCESS = 0, NOT_INITIALIZED = 1, INVALID_VALUE = 7 };

int cudaGetDevice(int *device);
int cudaMallocHost(void **memory, size_t bytes);
int cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width, size_t height,
                      int kind, void *stream);
int cudaMemsetAsync(void *memory, int value, size_t bytes, void *stream);
int cudaLaunchHostFunc(void *stream, void (*function)(void *), void *data);

typedef struct {
  int compute_type, transposes_a;
  uint32_t epilogue;
  const void *bias;
} Description;

typedef struct {
  int type;
  int64_t rows, columns, pitch;
} Layout;

typedef struct {
  uint64_t workspace_bytes;
  uint32_t reduction_schemes, alignment[4];
} Preference;

typedef struct {
  uint64_t algorithm[8];
  size_t workspace_bytes;
  int status;
  float waves;
  int reserved[4];
} HeuristicResult;

static const uint64_t ALGORITHM = 0x1234567890abcdef;
static const size_t WORKSPACE_BYTES = 4096;

static FILE *output(void) {
  static FILE *file;
  const char *path = getenv("LILY_TEST_CUBLASLT_LOG");
  if (file == NULL) file = path == NULL ? stderr : fopen(path, "a");
  return file;
}

#define LOG(...) (fprintf(output(), __VA_ARGS__), fflush(output()))

static int faults(const char *what) {
  const char *fault = getenv("LILY_TEST_CUBLASLT_FAULT");
  return fault != NULL && strcmp(fault, what) == 0;
}

int cublasLtCreate(void **handle) {
  int device = -1;
  cudaGetDevice(&device);
  LOG("{\"call\":\"create\",\"device\":%d}\n", device);
  *handle = malloc(1);
  return faults("create") ? NOT_INITIALIZED : SUCCESS;
}

int cublasLtDestroy(void *handle) {
  LOG("{\"call\":\"destroy\"}\n");
  free(handle);
  return SUCCESS;
}

int cublasLtMatmulDescCreate(Description **description, int compute_type, int scale_type) {
  *description = calloc(1, sizeof(Description));
  (*description)->compute_type = compute_type;
  (*description)->epilogue = 1;
  return scale_type == FLOAT32 ? SUCCESS : INVALID_VALUE;
}

int cublasLtMatmulDescSetAttribute(Description *description, int attribute, const void *value, size_t bytes) {
  void *to = NULL;
  size_t expected = 4;
  if (attribute == 3) to = &description->transposes_a;
  if (attribute == 7) to = &description->epilogue;
  if (attribute == 8) to = &description->bias, expected = sizeof(void *);
  if (to == NULL || bytes != expected) return INVALID_VALUE;
  memcpy(to, value, bytes);
  return SUCCESS;
}

int cublasLtMatmulDescDestroy(Description *description) {
  free(description);
  return SUCCESS;
}

int cublasLtMatrixLayoutCreate(Layout **layout, int type, uint64_t rows, uint64_t columns, int64_t pitch) {
  *layout = malloc(sizeof(Layout));
  **layout = (Layout){type, (int64_t)rows, (int64_t)columns, pitch};
  return pitch >= (int64_t)rows ? SUCCESS : INVALID_VALUE;
}

int cublasLtMatrixLayoutDestroy(Layout *layout) {
  free(layout);
  return SUCCESS;
}

int cublasLtMatmulPreferenceCreate(Preference **preference) {
  *preference = malloc(sizeof(Preference));
  **preference = (Preference){0, 7, {256, 256, 256, 256}};
  return SUCCESS;
}

int cublasLtMatmulPreferenceSetAttribute(Preference *preference, int attribute, const void *value, size_t bytes) {
  void *to = NULL;
  size_t expected = 4;
  if (attribute == 1) to = &preference->workspace_bytes, expected = 8;
  if (attribute == 3) to = &preference->reduction_schemes;
  if (attribute >= 5 && attribute <= 8) to = &preference->alignment[attribute - 5];
  if (to == NULL || bytes != expected) return INVALID_VALUE;
  memcpy(to, value, bytes);
  return SUCCESS;
}

int cublasLtMatmulPreferenceDestroy(Preference *preference) {
  free(preference);
  return SUCCESS;
}

#ifndef WITHOUT_HEURISTIC
int cublasLtMatmulAlgoGetHeuristic(void *handle, Description *description, Layout *a, Layout *b, Layout *c, Layout *d,
                                   Preference *preference, int most, HeuristicResult *results, int *count) {
  (void)handle, (void)description, (void)a, (void)b, (void)c, (void)d;
  LOG("{\"call\":\"choose\",\"workspaceBytes\":%llu,\"reductionSchemes\":%u,\"alignment\":[%u,%u,%u,%u]}\n",
      (unsigned long long)preference->workspace_bytes, preference->reduction_schemes, preference->alignment[0],
      preference->alignment[1], preference->alignment[2], preference->alignment[3]);
  *count = 0;
  if (faults("none") || preference->workspace_bytes < WORKSPACE_BYTES || most < 1) return SUCCESS;
  memset(results, 0, sizeof *results);
  results->algorithm[7] = ALGORITHM;
  results->workspace_bytes = WORKSPACE_BYTES;
  *count = 1;
  return SUCCESS;
}
#endif

static float number(const void *data, int type, int64_t i) {
  if (type == FLOAT32) return ((const float *)data)[i];
  if (type == FLOAT16) return (float)((const _Float16 *)data)[i];
  const uint32_t bits = (uint32_t)((const uint16_t *)data)[i] << 16;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

/* The nearest number whose low `bits` bits are zero. */
static float rounded(float value, int bits) {
  uint32_t word;
  memcpy(&word, &value, sizeof word);
  word = (word + (1u << (bits - 1)) - 1 + (word >> bits & 1)) >> bits << bits;
  memcpy(&value, &word, sizeof value);
  return value;
}

static void store(void *data, int type, int64_t i, float value) {
  if (type == FLOAT32) ((float *)data)[i] = value;
  if (type == FLOAT16) ((_Float16 *)data)[i] = (_Float16)value;
  if (type == BFLOAT16) {
    value = rounded(value, 16);
    memcpy((uint16_t *)data + i, (const uint16_t *)&value + 1, 2);
  }
}

/* A matrix in pinned memory, column by column without gaps. */
typedef struct {
  void *data;
  Layout layout;
} Matrix;

typedef struct {
  Matrix a, b, c, d, bias;
  int tf32, transposes_a;
  float beta;
} Product;

static size_t size_of(int type) { return type == FLOAT32 ? 4 : 2; }

static Matrix pinned(Layout layout) {
  Matrix matrix = {NULL, layout};
  cudaMallocHost(&matrix.data, size_of(layout.type) * (size_t)(layout.rows * layout.columns));
  return matrix;
}

static Matrix copied(Layout layout, const void *from, void *stream) {
  const Matrix matrix = pinned(layout);
  const size_t size = size_of(layout.type), width = (size_t)layout.rows * size;
  cudaMemcpy2DAsync(matrix.data, width, from, (size_t)layout.pitch * size, width, (size_t)layout.columns, DEVICE_TO_HOST,
                    stream);
  return matrix;
}

static void multiply(void *data) {
  const Product *product = data;
  const int64_t rows = product->d.layout.rows, columns = product->d.layout.columns, depth = product->b.layout.rows;
  const int type = product->d.layout.type;
  float *a = malloc((size_t)(rows * depth) * sizeof *a), *b = malloc((size_t)depth * sizeof *b);
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t k = 0; k < depth; ++k) {
      const float value = number(product->a.data, type, product->transposes_a ? i * depth + k : k * rows + i);
      a[i * depth + k] = product->tf32 ? rounded(value, 13) : value;
    }
  for (int64_t j = 0; j < columns; ++j) {
    for (int64_t k = 0; k < depth; ++k) {
      const float value = number(product->b.data, type, j * depth + k);
      b[k] = product->tf32 ? rounded(value, 13) : value;
    }
    for (int64_t i = 0; i < rows; ++i) {
      float sum[4] = {0};
      int64_t k = 0;
      for (; k + 4 <= depth; k += 4)
        for (int lane = 0; lane < 4; ++lane) sum[lane] += a[i * depth + k + lane] * b[k + lane];
      for (; k < depth; ++k) sum[0] += a[i * depth + k] * b[k];
      float value = sum[0] + sum[1] + (sum[2] + sum[3]);
      if (product->beta != 0) value += product->beta * number(product->c.data, type, j * rows + i);
      if (product->bias.data != NULL) value += number(product->bias.data, type, i);
      store(product->d.data, type, j * rows + i, value);
    }
  }
  free(a);
  free(b);
}

int cublasLtMatmul(void *handle, Description *description, const float *alpha, const void *a, Layout *a_layout,
                   const void *b, Layout *b_layout, const float *beta, const void *c, Layout *c_layout, void *d,
                   Layout *d_layout, const uint64_t *algorithm, void *workspace, size_t workspace_bytes, void *stream) {
  const char *fault = getenv("LILY_TEST_CUBLASLT_FAULT");
  LOG("{\"call\":\"multiply\",\"type\":%d,\"computeType\":%d,\"transposesA\":%s,\"rows\":%lld,\"columns\":%lld,"
      "\"depth\":%lld,\"pitches\":[%lld,%lld,%lld],\"beta\":%g,\"epilogue\":%u,\"hasBias\":%s}\n",
      d_layout->type, description->compute_type, description->transposes_a ? "true" : "false",
      (long long)d_layout->rows, (long long)d_layout->columns, (long long)b_layout->rows, (long long)a_layout->pitch,
      (long long)b_layout->pitch, (long long)d_layout->pitch, (double)*beta, description->epilogue,
      description->bias != NULL ? "true" : "false");
  if (fault != NULL && atoi(fault) > 0) return atoi(fault);
  const int64_t a_depth = description->transposes_a ? a_layout->rows : a_layout->columns;
  const int64_t a_rows = description->transposes_a ? a_layout->columns : a_layout->rows;
  if (handle == NULL || *alpha != 1 || c != d || c_layout != d_layout || a_layout->type != d_layout->type ||
      b_layout->type != d_layout->type || a_depth != b_layout->rows || a_rows != d_layout->rows ||
      b_layout->columns != d_layout->columns || (description->epilogue == 4) != (description->bias != NULL) ||
      algorithm[7] != ALGORITHM || workspace == NULL || (uintptr_t)workspace % 16 != 0 ||
      workspace_bytes < WORKSPACE_BYTES)
    return INVALID_VALUE;
  cudaMemsetAsync(workspace, 0xff, workspace_bytes, stream);
  Product *product = calloc(1, sizeof *product);
  product->a = copied(*a_layout, a, stream);
  product->b = copied(*b_layout, b, stream);
  if (*beta != 0) product->c = copied(*c_layout, c, stream);
  if (description->bias != NULL)
    product->bias = copied((Layout){d_layout->type, d_layout->rows, 1, d_layout->rows}, description->bias, stream);
  product->d = pinned(*d_layout);
  product->tf32 = description->compute_type == 77;
  product->transposes_a = description->transposes_a;
  product->beta = *beta;
  cudaLaunchHostFunc(stream, multiply, product);
  const size_t size = size_of(d_layout->type), width = (size_t)d_layout->rows * size;
  return cudaMemcpy2DAsync(d, (size_t)d_layout->pitch * size, product->d.data, width, width, (size_t)d_layout->columns,
                           HOST_TO_DEVICE, stream);
}
