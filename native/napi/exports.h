// The functions that the addon exports; lib/binding/native.ts describes each of them.
#pragma once

#include <napi.h>

namespace lily::napi {

// calls.cc
void run(const Napi::CallbackInfo &info);
void reserve(const Napi::CallbackInfo &info);
Napi::Value run_async(const Napi::CallbackInfo &info);
Napi::Value packed_bytes(const Napi::CallbackInfo &info);

// backends.cc
Napi::Value backends(const Napi::CallbackInfo &info);
Napi::Value processor(const Napi::CallbackInfo &info);
Napi::Value measure_roof(const Napi::CallbackInfo &info);

// spectrum.cc
void gram_factor(const Napi::CallbackInfo &info);
void congruence_eigenvalues(const Napi::CallbackInfo &info);

// file_lock.cc
Napi::Value file_lock(const Napi::CallbackInfo &info);

// host_memory.cc
Napi::Value host_address(const Napi::CallbackInfo &info);
Napi::Value place_host_block(const Napi::CallbackInfo &info);

// Functions for CUDA devices, each in the file of its name.
void add_memory_functions(Napi::Env env, Napi::Object exports);
void add_transfer_functions(Napi::Env env, Napi::Object exports);
void add_stream_functions(Napi::Env env, Napi::Object exports);
void add_graph_functions(Napi::Env env, Napi::Object exports);
void add_pool_functions(Napi::Env env, Napi::Object exports);

// dlpack/dlpack.cc
void add_dlpack_functions(Napi::Env env, Napi::Object exports);

// mpi.cc, or no_mpi.cc where there is no MPI
void add_mpi_functions(Napi::Env env, Napi::Object exports);

}  // namespace lily::napi
