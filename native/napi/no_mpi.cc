#include "napi/exports.h"

namespace lily::napi {

// MPI of Windows has another binary interface.
void add_mpi_functions(Napi::Env, Napi::Object) {}

}  // namespace lily::napi
