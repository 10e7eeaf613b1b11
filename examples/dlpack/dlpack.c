/* An addon that produces a tensor as a DLPack capsule, and consumes one, by the convention of docs/interop.md. */
#include <dlpack/dlpack.h> /* of DLPack 1.x */
#include <node_api.h>
#include <stdbool.h>
#include <stdlib.h>

static const napi_type_tag kTag = {0x6fd4a82e97b14c05, 0xb3905e1c72da4f68};

typedef struct {
  DLManagedTensorVersioned managed;
  int64_t shape[2], strides[2];
  float numbers[6];
} Matrix;

static void delete_matrix(DLManagedTensorVersioned *managed) { free(managed->manager_ctx); }

static void free_capsule(napi_env env, void *data, void *hint) {
  (void)env, (void)hint;
  DLManagedTensorVersioned **slot = data;
  if (*slot != NULL && (*slot)->deleter != NULL) (*slot)->deleter(*slot);
  free(slot);
}

static napi_value produce(napi_env env, napi_callback_info info) {
  (void)info;
  Matrix *matrix = malloc(sizeof *matrix);
  *matrix = (Matrix){.shape = {2, 3}, .strides = {3, 1}, .numbers = {1, 2, 3, 4, 5, 6}};
  matrix->managed = (DLManagedTensorVersioned){
      .version = {DLPACK_MAJOR_VERSION, DLPACK_MINOR_VERSION},
      .manager_ctx = matrix,
      .deleter = delete_matrix,
      .dl_tensor = {.data = matrix->numbers,
                    .device = {kDLCPU, 0},
                    .ndim = 2,
                    .dtype = {kDLFloat, 32, 1},
                    .shape = matrix->shape,
                    .strides = matrix->strides},
  };
  DLManagedTensorVersioned **slot = malloc(sizeof *slot);
  *slot = &matrix->managed;
  napi_value capsule;
  napi_create_external(env, slot, free_capsule, NULL, &capsule);
  napi_type_tag_object(env, capsule, &kTag);
  return capsule;
}

static napi_value sum(napi_env env, napi_callback_info info) {
  size_t argc = 1;
  napi_value capsule, result;
  napi_valuetype type;
  bool is_tagged = false;
  DLManagedTensorVersioned **slot = NULL;
  napi_get_cb_info(env, info, &argc, &capsule, NULL, NULL);
  napi_typeof(env, capsule, &type);
  if (type == napi_external) napi_check_object_type_tag(env, capsule, &kTag, &is_tagged);
  if (is_tagged) napi_get_value_external(env, capsule, (void **)&slot);
  if (slot == NULL || *slot == NULL) {
    napi_throw_type_error(env, NULL, "expected a DLPack capsule that was not consumed");
    return NULL;
  }
  DLManagedTensorVersioned *managed = *slot;
  *slot = NULL;
  double total = 0;
  const DLTensor *tensor = &managed->dl_tensor;
  const bool is_supported = managed->version.major == DLPACK_MAJOR_VERSION && tensor->device.device_type == kDLCPU &&
                            tensor->dtype.code == kDLFloat && tensor->dtype.bits == 32 && tensor->dtype.lanes == 1 &&
                            tensor->ndim == 2 && tensor->strides != NULL;
  if (is_supported) {
    const float *first = (const float *)((const char *)tensor->data + tensor->byte_offset);
    for (int64_t row = 0; row < tensor->shape[0]; ++row) {
      for (int64_t column = 0; column < tensor->shape[1]; ++column) {
        total += first[row * tensor->strides[0] + column * tensor->strides[1]];
      }
    }
  } else {
    napi_throw_type_error(env, NULL, "expected a float32 matrix of the host");
  }
  if (managed->deleter != NULL) managed->deleter(managed);
  napi_create_double(env, total, &result);
  return result;
}

NAPI_MODULE_INIT() {
  napi_value function;
  napi_create_function(env, "produce", NAPI_AUTO_LENGTH, produce, NULL, &function);
  napi_set_named_property(env, exports, "produce", function);
  napi_create_function(env, "sum", NAPI_AUTO_LENGTH, sum, NULL, &function);
  napi_set_named_property(env, exports, "sum", function);
  return exports;
}
