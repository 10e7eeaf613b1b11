// What the module exports beside the C ABI (lily/backend.h) and the runtime's own symbols; lib/binding/wasm calls it.
#pragma once

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// Sets the number of threads, including the calling one. To be called once, before any other function.
void lily_wasm_set_threads(int32_t count);

// Runs the tasks of thread `worker`, from 1 to count - 1. It does not return.
void lily_wasm_work(int32_t worker);

#ifdef __cplusplus
}
#endif
