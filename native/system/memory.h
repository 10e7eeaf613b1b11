// Memory of the host.
#pragma once

#include <stddef.h>

namespace lily::system {

// `alignment` is a power of two and divides `bytes`. Returns null if there is no memory.
void *allocate_aligned(size_t alignment, size_t bytes);
void free_aligned(void *memory);

// Asks for huge pages, which exist on Linux alone.
void advise_huge_pages(void *memory, size_t bytes);

// malloc takes large blocks from the system and returns them when they are freed, so that the memory of every result
// would be new, and its page faults take longer than the operation. Lets malloc keep them where that is known to help:
// with glibc.
void keep_freed_memory();

// Returns to the system what malloc keeps.
void return_freed_memory();

}  // namespace lily::system
