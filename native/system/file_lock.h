// Advisory locks of open files, by which processes that save into one folder take turns.
#pragma once

namespace lily::system {

enum class FileLock { kTaken, kHeldElsewhere, kNotOpen, kUnsupported };

// Tries to lock a file of Node's fs, and does not wait. The lock belongs to the open file, not to the process: two
// handles of one process exclude each other. Closing the file releases it, as does the end of the process, however it
// ends.
FileLock try_lock(int file, bool exclusive);

}  // namespace lily::system
