// Errors of the addon: JavaScript Errors with a `code`.
#pragma once

#include <napi.h>

#include <string>

#include "lily/backend.h"

namespace lily::napi {

// A JavaScript Error with a `code`.
Napi::Error make_error(Napi::Env env, const char *code, const std::string &message);

// Like make_error, with the name of the argument at the start of the message and as the property `argument`.
Napi::Error argument_error(Napi::Env env, const char *code, const char *name, const std::string &message);

// A failed call of a backend: a copy of this thread's last error, which another thread can throw.
struct Failure {
  Failure() = default;
  Failure(const lily_backend &backend, lily_status status);
  Napi::Error error(Napi::Env env) const;

  lily_status status = LILY_OK;
  std::string message, device_error;
};

// Throws unless the status is LILY_OK.
void check(Napi::Env env, const lily_backend &backend, lily_status status);

// The error of a pool that has no memory for `what`.
Napi::Error out_of_memory(Napi::Env env, const lily_backend &backend, const char *what, size_t bytes);

}  // namespace lily::napi
