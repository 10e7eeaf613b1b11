// Tensors of DLPack that addons give each other through JavaScript: docs/interop.md has the contract.
#include "napi/dlpack/dlpack.h"

#include <math.h>

#include <memory>
#include <string>
#include <vector>

#include "lily/cpu.h"
#include "napi/backends.h"
#include "napi/environment.h"
#include "napi/exports.h"
#include "napi/handles.h"
#include "napi/values.h"

namespace lily::napi {
namespace {

// The tag of a capsule, an External that points to a Slot.
constexpr napi_type_tag kCapsuleTag = {0x6fd4a82e97b14c05, 0xb3905e1c72da4f68};

// Null once a consumer has taken the tensor.
using Slot = DLManagedTensorVersioned *;

constexpr int32_t kMaxDimensions = 64;
constexpr int64_t kMaxExact = int64_t{1} << 53;  // of a number of JavaScript

void call_deleter(DLManagedTensorVersioned *tensor) {
  if (tensor != nullptr && tensor->deleter != nullptr) tensor->deleter(tensor);
}

int64_t element_bytes(DLDataType dtype) { return (int64_t{dtype.bits} * dtype.lanes + 7) / 8; }

// Bytes from the first element to the end of the last. Negative sizes and strides, and more than binding::kMaxBytes,
// give -1.
int64_t extent(const DLTensor &tensor) {
  int64_t last = 0, row_major = 1;
  bool is_empty = false;
  for (int32_t axis = tensor.ndim - 1; axis >= 0; --axis) {
    const int64_t size = tensor.shape[axis];
    const int64_t stride = tensor.strides != nullptr ? tensor.strides[axis] : row_major;
    int64_t steps = 0;
    if (size < 0) return -1;
    if (size == 0) is_empty = true;
    if (size > 1 && (stride < 0 || __builtin_mul_overflow(size - 1, stride, &steps) ||
                     __builtin_add_overflow(last, steps, &last) || last > binding::kMaxBytes)) {
      return -1;
    }
    if (size > 1 && __builtin_mul_overflow(row_major, size, &row_major)) return -1;
  }
  if (is_empty) return 0;
  int64_t bytes = 0;
  if (__builtin_mul_overflow(last + 1, element_bytes(tensor.dtype), &bytes)) return -1;
  return bytes <= binding::kMaxBytes ? bytes : -1;
}

// ---- Capsules ----

void free_capsule(napi_env, void *data, void *) {
  Slot *const slot = static_cast<Slot *>(data);
  call_deleter(*slot);
  delete slot;
}

// Takes the tensor over, also if it throws.
Napi::Value make_capsule(Napi::Env env, DLManagedTensorVersioned *tensor) {
  Slot *const slot = new Slot(tensor);
  napi_value capsule = nullptr;
  if (napi_create_external(env, slot, free_capsule, nullptr, &capsule) != napi_ok) {
    free_capsule(env, slot, nullptr);
    throw make_error(env, "ERR_LILY_OUT_OF_MEMORY", "Node-API has created no External");
  }
  if (napi_type_tag_object(env, capsule, &kCapsuleTag) != napi_ok) {
    throw make_error(env, "ERR_LILY_BACKEND_UNAVAILABLE", "this runtime does not tag Externals of Node-API");
  }
  return Napi::Value(env, capsule);
}

// The slot of a capsule that has its tensor. The tensor of another major version is given back.
Slot &slot_argument(const Napi::CallbackInfo &info) {
  const Napi::Env env = info.Env();
  napi_valuetype type;
  bool is_tagged = false;
  void *data = nullptr;
  const bool is_external = napi_typeof(env, info[0], &type) == napi_ok && type == napi_external;
  if (is_external) napi_check_object_type_tag(env, info[0], &kCapsuleTag, &is_tagged);
  if (!is_tagged || napi_get_value_external(env, info[0], &data) != napi_ok || data == nullptr) {
    throw argument_error(env, "ERR_LILY_ARGUMENT", "capsule",
                         is_external ? "expected an External with the type tag of DLPack, got one without; its addon "
                                       "must tag it (docs/interop.md)"
                                     : "expected an External with the type tag of DLPack, as toDLPack() returns, got "
                                       "another value");
  }
  Slot &slot = *static_cast<Slot *>(data);
  if (slot == nullptr) {
    throw argument_error(env, "ERR_LILY_ARGUMENT", "capsule",
                         "its tensor has been taken before, and can be taken once; create another capsule");
  }
  const DLPackVersion version = slot->version;
  if (version.major != DLPACK_MAJOR_VERSION) {
    call_deleter(std::exchange(slot, nullptr));
    throw argument_error(env, "ERR_LILY_ARGUMENT", "capsule",
                         "expected DLPack " + std::to_string(DLPACK_MAJOR_VERSION) + ".x, got " +
                             std::to_string(version.major) + "." + std::to_string(version.minor) +
                             "; the tensor was given back to its producer");
  }
  return slot;
}

// The same, with a tensor whose fields can be read.
Slot &checked_slot(const Napi::CallbackInfo &info) {
  Slot &slot = slot_argument(info);
  const DLTensor &tensor = slot->dl_tensor;
  const auto refuse = [&](const char *code, const std::string &message) {
    return argument_error(info.Env(), code, "capsule", message);
  };
  if (tensor.ndim < 0 || tensor.ndim > kMaxDimensions || (tensor.ndim > 0 && tensor.shape == nullptr)) {
    throw refuse("ERR_LILY_ARGUMENT", "its tensor is invalid: it has " + std::to_string(tensor.ndim) + " dimensions" +
                                          (tensor.shape == nullptr ? " and no shape" : ""));
  }
  for (int32_t axis = 0; axis < tensor.ndim; ++axis) {
    const int64_t size = tensor.shape[axis];
    const int64_t stride = tensor.strides != nullptr ? tensor.strides[axis] : 0;
    if (size < 0 || size > kMaxExact || stride > kMaxExact || stride < -kMaxExact) {
      throw refuse("ERR_LILY_SHAPE", "dimension " + std::to_string(axis) + " has size " + std::to_string(size) +
                                         " and stride " + std::to_string(stride));
    }
  }
  if (tensor.data == nullptr && extent(tensor) != 0) {
    throw refuse("ERR_LILY_ARGUMENT", "its tensor is invalid: it has elements, but no data");
  }
  return slot;
}

char *first_element(const DLTensor &tensor) { return static_cast<char *>(tensor.data) + tensor.byte_offset; }

// ---- Export ----

// A tensor of this package, with what its deleter needs.
struct Exported {
  DLManagedTensorVersioned tensor = {};
  std::vector<int64_t> shape, strides;
  Shared<Releases> releases;
  uint32_t release = 0;

  // Runs on any thread.
  static void free(DLManagedTensorVersioned *tensor) {
    const std::unique_ptr<Exported> exported(static_cast<Exported *>(tensor->manager_ctx));
    exported->releases->request(exported->release);
  }
};

// The numbers before the sizes and strides.
enum { kBackend, kDevice, kByteOffset, kCode, kBits, kReadOnly, kFixed };

// ([backend, device, byte offset, type code, bits, read-only, ...shape, ...strides], memory, release) -> capsule. The
// event loop calls `release` once the consumer has given the tensor back.
Napi::Value dlpack_export(const Napi::CallbackInfo &info) {
  const Napi::Env env = info.Env();
  size_t bytes = 0;
  array_bytes(env, info[0], &bytes, "descriptor");
  std::vector<double> numbers(bytes / sizeof(double));
  read_numbers(env, info[0], static_cast<int64_t>(numbers.size()), numbers.data());
  if (numbers.size() < kFixed || numbers.size() % 2 != 0 || numbers.size() > kFixed + 2 * kMaxDimensions) {
    throw make_error(env, "ERR_LILY_ARGUMENT", "the descriptor must have as many strides as sizes, at most 64 each");
  }
  if (!info[2].IsFunction()) throw make_error(env, "ERR_LILY_ARGUMENT", "release must be a function");

  auto exported = std::make_unique<Exported>();
  const size_t ndim = (numbers.size() - kFixed) / 2;
  for (size_t axis = 0; axis < ndim; ++axis) {
    exported->shape.push_back(whole_number(env, numbers[kFixed + axis], 0, kMaxExact, "shape"));
    exported->strides.push_back(whole_number(env, numbers[kFixed + ndim + axis], 0, kMaxExact, "strides"));
  }
  const lily_backend &backend = available_backend(env, numbers[kBackend]);
  const bool is_host = &backend == lily_cpu_backend();
  const int32_t device = device_of(env, backend, numbers[kDevice]);
  exported->tensor = {
      .version = {.major = DLPACK_MAJOR_VERSION, .minor = DLPACK_MINOR_VERSION},
      .manager_ctx = exported.get(),
      .deleter = Exported::free,
      .flags = numbers[kReadOnly] != 0 ? DLPACK_FLAG_BITMASK_READ_ONLY : 0,
      .dl_tensor = {.data = nullptr,
                    .device = {.device_type = is_host ? kDLCPU : kDLCUDA, .device_id = device},
                    .ndim = static_cast<int32_t>(ndim),
                    .dtype = {.code = static_cast<uint8_t>(whole_number(env, numbers[kCode], 0, 255, "code")),
                              .bits = static_cast<uint8_t>(whole_number(env, numbers[kBits], 8, 64, "bits")),
                              .lanes = 1},
                    .shape = exported->shape.data(),
                    .strides = exported->strides.data(),
                    .byte_offset = 0},
  };
  DLTensor &tensor = exported->tensor.dl_tensor;
  const int64_t length = extent(tensor);
  const int64_t offset = whole_number(env, numbers[kByteOffset], "byteOffset");
  const binding::Memory memory = operand_memory(env, backend, device, info[1], offset, length, "tensor");
  binding::Error error;
  if (!binding::check_bytes("tensor", memory, offset, length, element_bytes(tensor.dtype), &error)) check(env, error);
  if (length > 0) tensor.data = memory.data + offset;
  exported->releases = env.GetInstanceData<Environment>()->releases;
  exported->release = exported->releases->add(env, info[2], info[1]);
  return make_capsule(env, &exported.release()->tensor);
}

// ---- Import ----

// Device memory of another addon.
struct Imported : Handle {
  static constexpr Kind kKind = kImported;
  Imported(DLManagedTensorVersioned *tensor, int64_t bytes) : Handle(kKind), tensor(tensor), bytes(bytes) {}
  void release(Napi::Env env) {
    call_deleter(std::exchange(tensor, nullptr));
    Napi::MemoryManagement::AdjustExternalMemory(env, -std::exchange(bytes, 0));
  }
  DLManagedTensorVersioned *tensor;  // null: given back
  int64_t bytes;
};

Napi::Array integers(Napi::Env env, const int64_t *values, int32_t count) {
  Napi::Array array = Napi::Array::New(env, static_cast<size_t>(count));
  for (int32_t i = 0; i < count; ++i) array[static_cast<uint32_t>(i)] = Napi::Number::New(env, values[i]);
  return array;
}

// (capsule) -> its tensor, which stays in the capsule
Napi::Value dlpack_read(const Napi::CallbackInfo &info) {
  const Napi::Env env = info.Env();
  const DLManagedTensorVersioned &managed = *checked_slot(info);
  const DLTensor &tensor = managed.dl_tensor;
  Napi::Object result = Napi::Object::New(env);
  result.Set("deviceType", tensor.device.device_type);
  result.Set("deviceId", tensor.device.device_id);
  result.Set("code", tensor.dtype.code);
  result.Set("bits", tensor.dtype.bits);
  result.Set("lanes", tensor.dtype.lanes);
  result.Set("isReadOnly", (managed.flags & DLPACK_FLAG_BITMASK_READ_ONLY) != 0);
  result.Set("shape", integers(env, tensor.shape, tensor.ndim));
  result.Set("strides", tensor.strides == nullptr ? env.Null() : integers(env, tensor.strides, tensor.ndim));
  const auto address = static_cast<uint64_t>(reinterpret_cast<uintptr_t>(tensor.data)) + tensor.byte_offset;
  result.Set("address", Napi::BigInt::New(env, address));
  return result;
}

// (capsule) -> ArrayBuffer over memory of the host, or the handle of device memory. Its finalizer calls the deleter.
Napi::Value dlpack_take(const Napi::CallbackInfo &info) {
  const Napi::Env env = info.Env();
  Slot &slot = checked_slot(info);
  const DLTensor &tensor = slot->dl_tensor;
  const int64_t bytes = extent(tensor);
  if (bytes < 0) throw argument_error(env, "ERR_LILY_SHAPE", "capsule", "its tensor has negative strides or no end");
  if (tensor.device.device_type == kDLCUDA) {
    Napi::Value handle = wrap(env, std::make_unique<Imported>(slot, bytes));
    slot = nullptr;
    Napi::MemoryManagement::AdjustExternalMemory(env, bytes);
    return handle;
  }
  if (tensor.device.device_type != kDLCPU && tensor.device.device_type != kDLCUDAHost) {
    throw argument_error(env, "ERR_LILY_DEVICE", "capsule",
                         "its tensor is neither in host memory nor on a CUDA device");
  }
  napi_value buffer = nullptr;
  if (bytes == 0) {  // an ArrayBuffer of length 0 keeps nothing
    buffer = Napi::ArrayBuffer::New(env, 0);
    call_deleter(std::exchange(slot, nullptr));
    return Napi::Value(env, buffer);
  }
  const auto finalize = [](napi_env, void *, void *taken) {
    call_deleter(static_cast<DLManagedTensorVersioned *>(taken));
  };
  const napi_status status =
      napi_create_external_arraybuffer(env, first_element(tensor), static_cast<size_t>(bytes), finalize, slot, &buffer);
  if (status != napi_ok) {
    throw argument_error(env, "ERR_LILY_BACKEND_UNAVAILABLE", "capsule",
                         "this runtime creates no ArrayBuffer over memory of an addon; pass a copy as { data, shape }");
  }
  slot = nullptr;
  return Napi::Value(env, buffer);
}

}  // namespace

void add_dlpack_functions(Napi::Env env, Napi::Object exports) {
  exports.Set("dlpackExport", Napi::Function::New<dlpack_export>(env));
  exports.Set("dlpackRead", Napi::Function::New<dlpack_read>(env));
  exports.Set("dlpackTake", Napi::Function::New<dlpack_take>(env));
}

}  // namespace lily::napi
