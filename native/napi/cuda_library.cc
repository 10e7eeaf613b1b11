#include "napi/cuda_library.h"

#include <stdlib.h>
#include <unistd.h>

#include "core/environment.h"
#include "system/library.h"

namespace lily::napi {

// The library's default path: beside the addon, in build/Release or prebuilds/.
static std::string default_path() {
  Dl_info addon;
  if (dladdr(reinterpret_cast<const void *>(&default_path), &addon) == 0 || addon.dli_fname == nullptr) return "";
  const std::string path = addon.dli_fname;
  return path.substr(0, path.find_last_of('/') + 1) + "lily_cuda.so";
}

CudaLibrary open_cuda_library() {
  for (const char *name : {"LILY_CUBLASLT", "LILY_SELF_TEST"}) {
    if (read_switch(getenv(name)) == Switch::kUnreadable)
      return {nullptr, std::string(name) + " must be 0 or 1; change it or unset it"};
  }
  const char *given = getenv("LILY_CUDA_LIBRARY");
  const bool is_given = given != nullptr && *given != '\0';
  const std::string path = is_given ? given : default_path();
  if (access(path.c_str(), F_OK) != 0) {
    if (is_given) return {nullptr, "LILY_CUDA_LIBRARY names " + path + ", which does not exist; correct or unset it"};
    return {nullptr, "this build of lily-kernels has no CUDA library (there is no " + path +
                         "); build it in a checkout on a machine with nvcc of CUDA 13"};
  }
  void *library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  const std::string remedy = is_given ? "; correct or unset LILY_CUDA_LIBRARY" : "; install lily-kernels again";
  if (library == nullptr) return {nullptr, std::string("the CUDA library does not load: ") + dlerror() + remedy};
  const auto entry = reinterpret_cast<lily_backend_entry>(dlsym(library, LILY_BACKEND_ENTRY));
  if (entry == nullptr) {
    return {nullptr, path + " is not a CUDA library of lily-kernels: it has no " + LILY_BACKEND_ENTRY + remedy};
  }
  const lily_backend *backend = entry(LILY_ABI_VERSION);
  if (backend == nullptr) {
    return {nullptr, path + " is of another version than the addon (whose interface is " +
                         std::to_string(LILY_ABI_VERSION) + "); install or build both again"};
  }
  return {backend, ""};
}

}  // namespace lily::napi
