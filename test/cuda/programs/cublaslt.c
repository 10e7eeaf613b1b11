/* Stands for cuBLASLt: it says what it is asked for, and instead of a product fills the result with zeros. */
#include <stdint.h>
#include <stdio.h>

int cudaMemsetAsync(void *memory, int value, size_t bytes, void *stream);

static char objects[3];
static uint64_t bytes;
static int products;

int cublasLtCreate(void **handle) {
  *handle = &objects[0];
  return 0;
}

int cublasLtDestroy(void *handle) {
  fprintf(stderr, "destroyed %d after products %d\n", handle == &objects[0], products > 0);
  return 0;
}

int cublasLtMatmulDescCreate(void **description, int compute_type, int scale_type) {
  fprintf(stderr, "product: compute type %d, scale type %d\n", compute_type, scale_type);
  *description = &objects[1];
  return 0;
}

int cublasLtMatmulDescSetAttribute(void *description, int attribute, const void *value, size_t size) {
  fprintf(stderr, "attribute %d of %zu bytes: %d\n", attribute, size, *(const int32_t *)value);
  return description != &objects[1];
}

int cublasLtMatmulDescDestroy(void *description) { return description != &objects[1]; }

int cublasLtMatrixLayoutCreate(void **layout, int type, uint64_t rows, uint64_t columns, int64_t pitch) {
  fprintf(stderr, "matrix: type %d, %d x %d, pitch %d\n", type, (int)rows, (int)columns, (int)pitch);
  bytes = 2 * rows * columns;
  *layout = &objects[2];
  return 0;
}

int cublasLtMatrixLayoutDestroy(void *layout) { return layout != &objects[2]; }

int cublasLtMatmul(void *handle, void *description, const float *alpha, const char *a, void *a_layout, const char *b,
                   void *b_layout, const float *beta, const void *c, void *c_layout, char *d, void *d_layout,
                   const void *algorithm, void *workspace, size_t workspace_bytes, void *stream) {
  const int same = a_layout == b_layout && b_layout == c_layout && c_layout == d_layout && d_layout == &objects[2];
  const int known = handle == &objects[0] && description == &objects[1] && same;
  const int apart = b == a + bytes && d == b + bytes && c == d;
  const int plain = *alpha == 1 && *beta == 0 && algorithm == NULL && workspace == NULL && workspace_bytes == 0;
  if (!known || !apart || !plain) return 7;
  ++products;
  return cudaMemsetAsync(d, 0, bytes, stream);
}
