// The addon's exports; lib/binding/native.ts describes them.
#include <napi.h>

#include "lily/backend.h"
#include "napi/descriptor.h"
#include "napi/environment.h"
#include "napi/exports.h"

namespace {

Napi::Array names(Napi::Env env, const char *const *list, int count) {
  Napi::Array array = Napi::Array::New(env, count);
  for (int i = 0; i < count; ++i) array[static_cast<uint32_t>(i)] = Napi::String::New(env, list[i]);
  return array;
}

// The names of each list, in order.
Napi::Object descriptor(Napi::Env env) {
  using namespace lily::napi;
  Napi::Object lists = Napi::Object::New(env);
#define LILY_EXPORT_LIST(space, javascript_name, list) \
  lists.Set(#javascript_name, names(env, space::kNames, space::kCount));
  LILY_DESCRIPTOR_LISTS(LILY_EXPORT_LIST)
#undef LILY_EXPORT_LIST
  return lists;
}

struct Constant {
  const char *kind;
  const char *name;
  int value;
};

constexpr Constant kConstants[] = {
    {"backend", "cpu", 0},
    {"backend", "cuda", 1},
    {"dtype", "float32", LILY_FLOAT32},
    {"dtype", "bfloat16", LILY_BFLOAT16},
    {"dtype", "float16", LILY_FLOAT16},
    {"routing", "batch", LILY_ROUTING_BATCH},
    {"routing", "sequence", LILY_ROUTING_SEQUENCE},
    {"routing", "token", LILY_ROUTING_TOKEN},
    {"routing", "uniform", LILY_ROUTING_UNIFORM},
    {"routing", "fixed", LILY_ROUTING_FIXED},
    {"routing", "none", LILY_ROUTING_NONE},
    {"pool", "probabilities", LILY_POOL_PROBABILITIES},
    {"pool", "logits", LILY_POOL_LOGITS},
    {"activation", "none", LILY_ACTIVATION_NONE},
    {"activation", "relu", LILY_ACTIVATION_RELU},
    {"precision", "default", LILY_PRECISION_DEFAULT},
    {"precision", "high", LILY_PRECISION_HIGH},
    {"precision", "tf32", LILY_PRECISION_TF32},
    {"roof", "multiplyAdd", LILY_ROOF_MULTIPLY_ADD},
    {"roof", "read", LILY_ROOF_READ},
    {"roof", "update", LILY_ROOF_UPDATE},
    {"roof", "bfloat16", LILY_ROOF_BFLOAT16},
    {"roof", "product", LILY_ROOF_PRODUCT},
};

Napi::Object constants(Napi::Env env) {
  Napi::Object all = Napi::Object::New(env);
  for (const Constant &constant : kConstants) {
    if (!all.Has(constant.kind)) all.Set(constant.kind, Napi::Object::New(env));
    all.Get(constant.kind).As<Napi::Object>().Set(constant.name, constant.value);
  }
  return all;
}

Napi::Object initialize(Napi::Env env, Napi::Object exports) {
  using namespace lily::napi;
  exports.Set("descriptor", descriptor(env));
  exports.Set("constants", constants(env));
  exports.Set("forward", Napi::Function::New<forward>(env));
  exports.Set("forwardAsync", Napi::Function::New<forward_async>(env));
  exports.Set("backward", Napi::Function::New<backward>(env));
  exports.Set("backwardAsync", Napi::Function::New<backward_async>(env));
  exports.Set("linear", Napi::Function::New<linear>(env));
  exports.Set("linearAsync", Napi::Function::New<linear_async>(env));
  exports.Set("linearPackedBytes", Napi::Function::New<linear_packed_bytes>(env));
  exports.Set("linearPack", Napi::Function::New<linear_pack>(env));
  exports.Set("fold", Napi::Function::New<fold>(env));
  exports.Set("adamw", Napi::Function::New<adamw>(env));
  exports.Set("measureRoof", Napi::Function::New<measure_roof>(env));
  exports.Set("gramFactor", Napi::Function::New<gram_factor>(env));
  exports.Set("congruenceEigenvalues", Napi::Function::New<congruence_eigenvalues>(env));
  exports.Set("fileLock", Napi::Function::New<file_lock>(env));
  exports.Set("hostAddress", Napi::Function::New<host_address>(env));
  exports.Set("placeHostBlock", Napi::Function::New<place_host_block>(env));
  exports.Set("backends", Napi::Function::New<backends>(env));
  exports.Set("processor", Napi::Function::New<processor>(env));
  add_memory_functions(env, exports);
  add_transfer_functions(env, exports);
  add_stream_functions(env, exports);
  add_graph_functions(env, exports);
  add_pool_functions(env, exports);
  add_dlpack_functions(env, exports);
  env.SetInstanceData(new Environment);
  return exports;
}

}  // namespace

NODE_API_MODULE(lily, initialize)
