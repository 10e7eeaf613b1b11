// The image of the addon in memory.
#pragma once

namespace lily::system {

// Keeps the addon in memory until the process ends. The threads of the pool outlive the worker that loaded the addon:
// when the only such worker ends, Node closes the library, which must not unmap the code that they run.
void keep_image();

}  // namespace lily::system
