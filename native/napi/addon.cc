// The addon's exports; lib/binding/native.ts describes them.
#include <napi.h>

#include "binding/descriptor.h"
#include "napi/environment.h"
#include "napi/exports.h"
#include "system/image.h"

namespace {

Napi::Object initialize(Napi::Env env, Napi::Object exports) {
  using namespace lily::napi;
  lily::system::keep_image();
  exports.Set("signature", lily::binding::kSignature);
  exports.Set("run", Napi::Function::New<run>(env));
  exports.Set("reserve", Napi::Function::New<reserve>(env));
  exports.Set("runAsync", Napi::Function::New<run_async>(env));
  exports.Set("packedBytes", Napi::Function::New<packed_bytes>(env));
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
  add_mpi_functions(env, exports);
  env.SetInstanceData(new Environment);
  return exports;
}

}  // namespace

NODE_API_MODULE(lily, initialize)
