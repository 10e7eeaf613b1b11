/* A second addon, which produces and consumes DLPack capsules as docs/interop.md describes. */
#include <dlpack/dlpack.h>
#include <node_api.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define MOST 256
#define DIMENSIONS 72

static const napi_type_tag kTag = {0x6fd4a82e97b14c05, 0xb3905e1c72da4f68};
static const napi_type_tag kOtherTag = {1, 2};

/* How often the deleter of each produced tensor has run, in any thread. */
static int deletions[MOST];
static int produced = 0;

typedef struct {
  DLManagedTensorVersioned tensor;
  int64_t sizes[2 * DIMENSIONS];
  int number;
  char *memory;
} Produced;

static void delete_produced(DLManagedTensorVersioned *tensor) {
  Produced *self = tensor->manager_ctx;
  __atomic_add_fetch(&deletions[self->number], 1, __ATOMIC_SEQ_CST);
  if (self->memory != NULL) memset(self->memory, 0xff, 1); /* a use after free, if the memory has been freed */
  free(self->memory);
  free(self);
}

static napi_value field(napi_env env, napi_value object, const char *name) {
  napi_value value;
  napi_get_named_property(env, object, name, &value);
  return value;
}

static int64_t integer(napi_env env, napi_value object, const char *name) {
  napi_value value = field(env, object, name);
  napi_valuetype type;
  int64_t number = 0;
  bool lossless;
  napi_typeof(env, value, &type);
  if (type == napi_bigint) napi_get_value_bigint_int64(env, value, &number, &lossless);
  else napi_get_value_int64(env, value, &number);
  return number;
}

static bool is_given(napi_env env, napi_value object, const char *name) {
  napi_valuetype type;
  napi_typeof(env, field(env, object, name), &type);
  return type != napi_undefined && type != napi_null;
}

static uint32_t read_integers(napi_env env, napi_value array, int64_t *into) {
  uint32_t count = 0;
  napi_get_array_length(env, array, &count);
  for (uint32_t i = 0; i < count && i < DIMENSIONS; ++i) {
    napi_value element;
    napi_get_element(env, array, i, &element);
    napi_get_value_int64(env, element, &into[i]);
  }
  return count;
}

static napi_value number(napi_env env, double value) {
  napi_value result;
  napi_create_double(env, value, &result);
  return result;
}

static void free_slot(napi_env env, void *data, void *hint) {
  (void)env, (void)hint;
  DLManagedTensorVersioned **slot = data;
  if (*slot != NULL && (*slot)->deleter != NULL) (*slot)->deleter(*slot);
  free(slot);
}

static napi_value capsule_of(napi_env env, DLManagedTensorVersioned *tensor, const napi_type_tag *tag) {
  DLManagedTensorVersioned **slot = malloc(sizeof *slot);
  napi_value capsule;
  *slot = tensor;
  napi_create_external(env, slot, free_slot, NULL, &capsule);
  if (tag != NULL) napi_type_tag_object(env, capsule, tag);
  return capsule;
}

/* ({ data or address, shape, strides?, code, bits, lanes, ... }) -> capsule. `data` is copied. */
static napi_value produce(napi_env env, napi_callback_info info) {
  size_t argc = 1;
  napi_value of;
  napi_get_cb_info(env, info, &argc, &of, NULL, NULL);
  Produced *self = calloc(1, sizeof *self);
  DLTensor *tensor = &self->tensor.dl_tensor;
  self->number = produced++ % MOST;
  self->tensor.version.major = (uint32_t)integer(env, of, "major");
  self->tensor.version.minor = (uint32_t)integer(env, of, "minor");
  self->tensor.manager_ctx = self;
  self->tensor.deleter = is_given(env, of, "withoutDeleter") ? NULL : delete_produced;
  self->tensor.flags = (uint64_t)integer(env, of, "flags");
  if (is_given(env, of, "data")) {
    void *data;
    size_t bytes;
    napi_get_arraybuffer_info(env, field(env, of, "data"), &data, &bytes);
    self->memory = malloc(bytes + 1);
    memcpy(self->memory, data, bytes);
    tensor->data = self->memory;
  } else {
    tensor->data = (void *)(intptr_t)integer(env, of, "address");
  }
  tensor->device.device_type = (int32_t)integer(env, of, "deviceType");
  tensor->device.device_id = (int32_t)integer(env, of, "deviceId");
  tensor->dtype.code = (uint8_t)integer(env, of, "code");
  tensor->dtype.bits = (uint8_t)integer(env, of, "bits");
  tensor->dtype.lanes = (uint16_t)integer(env, of, "lanes");
  tensor->ndim = (int32_t)read_integers(env, field(env, of, "shape"), self->sizes);
  tensor->shape = self->sizes;
  if (is_given(env, of, "strides")) {
    tensor->strides = self->sizes + DIMENSIONS;
    read_integers(env, field(env, of, "strides"), tensor->strides);
  }
  if (is_given(env, of, "ndim")) tensor->ndim = (int32_t)integer(env, of, "ndim");
  tensor->byte_offset = (uint64_t)integer(env, of, "byteOffset");
  const int64_t tag = integer(env, of, "tag");
  return capsule_of(env, &self->tensor, tag == 0 ? NULL : tag == 1 ? &kTag : &kOtherTag);
}

/* () -> [deletions of each tensor that was produced] */
static napi_value count_deletions(napi_env env, napi_callback_info info) {
  (void)info;
  napi_value list;
  napi_create_array(env, &list);
  for (int i = 0; i < produced && i < MOST; ++i) {
    napi_set_element(env, list, (uint32_t)i, number(env, __atomic_load_n(&deletions[i], __ATOMIC_SEQ_CST)));
  }
  return list;
}

/* The tensors that this addon has taken. */
static DLManagedTensorVersioned *taken[MOST];
static uint32_t taken_count = 0;

static napi_value integers(napi_env env, const int64_t *values, int32_t count) {
  napi_value list;
  napi_create_array(env, &list);
  for (int32_t i = 0; values != NULL && i < count; ++i) {
    napi_set_element(env, list, (uint32_t)i, number(env, (double)values[i]));
  }
  return list;
}

/* (capsule) -> a description of the tensor, which this addon then has, or undefined */
static napi_value take(napi_env env, napi_callback_info info) {
  size_t argc = 1;
  napi_value capsule, result;
  napi_valuetype type;
  bool is_tagged = false;
  void *data = NULL;
  napi_get_cb_info(env, info, &argc, &capsule, NULL, NULL);
  napi_get_undefined(env, &result);
  if (napi_typeof(env, capsule, &type) != napi_ok || type != napi_external) return result;
  if (napi_check_object_type_tag(env, capsule, &kTag, &is_tagged) != napi_ok || !is_tagged) return result;
  if (napi_get_value_external(env, capsule, &data) != napi_ok) return result;
  DLManagedTensorVersioned **slot = data, *managed = *slot;
  if (managed == NULL || managed->version.major != DLPACK_MAJOR_VERSION) return result;
  *slot = NULL;

  const uint32_t index = taken_count++ % MOST;
  const DLTensor *tensor = &managed->dl_tensor;
  taken[index] = managed;
  napi_create_object(env, &result);
  napi_set_named_property(env, result, "index", number(env, index));
  napi_set_named_property(env, result, "minor", number(env, managed->version.minor));
  napi_set_named_property(env, result, "flags", number(env, (double)managed->flags));
  napi_set_named_property(env, result, "deviceType", number(env, tensor->device.device_type));
  napi_set_named_property(env, result, "deviceId", number(env, tensor->device.device_id));
  napi_set_named_property(env, result, "code", number(env, tensor->dtype.code));
  napi_set_named_property(env, result, "bits", number(env, tensor->dtype.bits));
  napi_set_named_property(env, result, "lanes", number(env, tensor->dtype.lanes));
  napi_set_named_property(env, result, "shape", integers(env, tensor->shape, tensor->ndim));
  napi_set_named_property(env, result, "strides", integers(env, tensor->strides, tensor->ndim));
  napi_set_named_property(env, result, "byteOffset", number(env, (double)tensor->byte_offset));
  napi_value address;
  napi_create_bigint_uint64(env, (uint64_t)(uintptr_t)tensor->data, &address);
  napi_set_named_property(env, result, "address", address);
  return result;
}

static DLManagedTensorVersioned *taken_argument(napi_env env, napi_callback_info info, double *second, double *third) {
  size_t argc = 3;
  napi_value arguments[3];
  uint32_t index = 0;
  napi_get_cb_info(env, info, &argc, arguments, NULL, NULL);
  napi_get_value_uint32(env, arguments[0], &index);
  napi_get_value_double(env, arguments[1], second);
  napi_get_value_double(env, arguments[2], third);
  return taken[index];
}

/* (index, element, value) -> the old value: of a float32 tensor without gaps */
static napi_value exchange(napi_env env, napi_callback_info info) {
  double element = 0, value = 0;
  const DLTensor *tensor = &taken_argument(env, info, &element, &value)->dl_tensor;
  float *at = (float *)((char *)tensor->data + tensor->byte_offset) + (size_t)element;
  const float old = *at;
  *at = (float)value;
  return number(env, old);
}

static void *call_deleter(void *data) {
  DLManagedTensorVersioned *tensor = data;
  tensor->deleter(tensor);
  return NULL;
}

/* (index, in another thread): gives the tensor back */
static napi_value give_back(napi_env env, napi_callback_info info) {
  double in_thread = 0, unused = 0;
  DLManagedTensorVersioned *tensor = taken_argument(env, info, &in_thread, &unused);
  if (in_thread != 0) {
    pthread_t thread;
    pthread_create(&thread, NULL, call_deleter, tensor);
    pthread_join(thread, NULL);
  } else {
    call_deleter(tensor);
  }
  return NULL;
}

/* (index) -> another capsule with the tensor */
static napi_value pass_on(napi_env env, napi_callback_info info) {
  double unused = 0;
  return capsule_of(env, taken_argument(env, info, &unused, &unused), &kTag);
}

NAPI_MODULE_INIT() {
  static const struct {
    const char *name;
    napi_callback function;
  } functions[] = {{"produce", produce},   {"deletions", count_deletions}, {"take", take},
                   {"exchange", exchange}, {"giveBack", give_back},        {"passOn", pass_on}};
  for (size_t i = 0; i < sizeof functions / sizeof *functions; ++i) {
    napi_value function;
    napi_create_function(env, functions[i].name, NAPI_AUTO_LENGTH, functions[i].function, NULL, &function);
    napi_set_named_property(env, exports, functions[i].name, function);
  }
  return exports;
}
