// What the module exports beside the runtime's own symbols; lib/binding/wasm calls it.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "binding/call.h"

#ifdef __cplusplus
extern "C" {
#endif

// Sets the number of threads, including the calling one. To be called once, before any other function.
void lily_wasm_set_threads(int32_t count);

// Runs the tasks of thread `worker`, from 1 to count - 1. It does not return.
void lily_wasm_work(int32_t worker);

// The text of the lists of binding/descriptor.h.
const char *lily_wasm_signature(void);

// The size of a call.
size_t lily_wasm_call_bytes(void);

// Reads a call. Returns the code of an error, whose message is lily_wasm_message(), or NULL.
const char *lily_wasm_read(const double *numbers, int32_t number_count, const lily::binding::Memory *memory,
                           int32_t memory_count, lily::binding::Call *call);
// The same for the size of a packed weight.
const char *lily_wasm_packed_bytes(const double *numbers, int32_t number_count, const lily::binding::Memory *memory,
                                   int32_t memory_count, size_t *bytes);
const char *lily_wasm_message(void);

// The functions of a call; the message of a status that is not LILY_OK is lily_wasm_last_error(). Threads other than
// the main one run calls of forward, backward and linear only: the lists of the others belong to the main thread.
lily_status lily_wasm_workspace_bytes(const lily::binding::Call *call, size_t *bytes);
void lily_wasm_give_workspace(lily::binding::Call *call, void *workspace, size_t bytes);
lily_status lily_wasm_run(const lily::binding::Call *call);
const char *lily_wasm_last_error(void);

// Whether the backend can run, and one of its roofs.
lily_status lily_wasm_ready(void);
lily_status lily_wasm_measure_roof(int32_t roof, size_t bytes, double *rate);

#ifdef __cplusplus
}
#endif
