// The self-test of CUDA devices: at the first use of a device in the process, one small problem per engine runs on it
// and on the CPU backend. A device with wrong results is disabled. LILY_SELF_TEST=0 turns the test off.
#pragma once

#include <napi.h>

#include <string>

#include "lily/backend.h"

namespace lily::napi {

// Tests the device unless that has been done. Throws ERR_LILY_BACKEND_UNAVAILABLE if the device is disabled, and the
// error of the device if the test cannot run; the next use repeats it then.
void check_self_test(Napi::Env env, const lily_backend &backend, int32_t device);

// Why a device is disabled; "" if it is not, or has not been used.
std::string self_test_failure(int32_t device);

}  // namespace lily::napi
