// Primary contexts: which devices have one, and which is current to each thread.
#pragma once

namespace lily::emulator::runtime {

// The device of the thread's current context. Without one, the device that cudaSetDevice has chosen, or 0.
int current_device_index();

// Makes the context of a device current to the thread, as cudaSetDevice does.
void choose_device(int index, const char *function);

// Creates the context of a device unless it has one. `function` is the call that requires it.
void create_context(int index, const char *function);

// For a call that requires a context: makes that of the thread's device current, and creates it if there is none.
void require_context(const char *function);

// Destroys the context of a device with all that was created in it. It stays current to the threads to which it was.
void destroy_context(int index);

// Obeys the files in LILY_EMULATOR_CONTROL that stand for other code of the process, which resets the devices.
void obey_resets();

}  // namespace lily::emulator::runtime
