// The system of WebAssembly: none.
#include <stdint.h>
#include <stdlib.h>

#include "system/memory.h"
#include "system/processor.h"

namespace lily::system {

void *allocate_aligned(size_t alignment, size_t bytes) { return aligned_alloc(alignment, bytes); }
void free_aligned(void *memory) { free(memory); }
void advise_huge_pages(void *, size_t) {}

// JavaScript reports the limits (lib/binding/wasm).
ThreadLimits thread_limits() { return {}; }
std::string processor_name() { return "WebAssembly"; }
uint64_t memory_bytes() { return 0; }
uint64_t cache_bytes() { return 0; }
uint64_t l2_cache_bytes() { return 0; }

}  // namespace lily::system

// The system calls that wasi-libc makes, under its names for them. The only one that is used is that for the clock, by
// the roofs; the others belong to messages of aborts, which are not printed. So the module imports nothing of WASI.
extern "C" {

__attribute__((import_module("env"), import_name("now"))) double lily_wasm_now(void);  // milliseconds

int32_t __imported_wasi_snapshot_preview1_clock_time_get(int32_t, int64_t, int32_t address) {
  *reinterpret_cast<uint64_t *>(static_cast<uintptr_t>(static_cast<uint32_t>(address))) =
      static_cast<uint64_t>(lily_wasm_now() * 1e6);
  return 0;
}

constexpr int32_t kNotSupported = 52;  // __WASI_ERRNO_NOSYS
int32_t __imported_wasi_snapshot_preview1_fd_close(int32_t) { return kNotSupported; }
int32_t __imported_wasi_snapshot_preview1_fd_seek(int32_t, int64_t, int32_t, int32_t) { return kNotSupported; }
int32_t __imported_wasi_snapshot_preview1_fd_write(int32_t, int32_t, int32_t, int32_t) { return kNotSupported; }

}  // extern "C"
