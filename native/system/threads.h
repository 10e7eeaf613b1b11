// Threads of the process.
#pragma once

namespace lily::system {

// Calls `forget` in every forked child. The child has none of the other threads.
void after_fork(void (*forget)());

}  // namespace lily::system
