#include "runtime/environment.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "runtime/errors.h"

extern char **environ;

namespace lily::emulator::runtime {
namespace {

constexpr std::string_view kPrefix = "LILY_EMULATOR_";

[[noreturn]] void reject(const std::string &name, const char *value, const char *expected) {
  fprintf(stderr, "emulator: LILY_EMULATOR_%s=%s: expected %s\n", name.c_str(), value, expected);
  _exit(98);
}

// The value of LILY_EMULATOR_<name>, or null if it is not set or empty.
const char *variable(const char *name) {
  const char *value = getenv((std::string(kPrefix) + name).c_str());
  return value != nullptr && *value != '\0' ? value : nullptr;
}

template <class Number>
void read_number(const char *name, Number &result, uint64_t lowest, uint64_t highest) {
  const char *value = variable(name);
  if (value == nullptr) return;
  char *end = nullptr;
  const uint64_t number = strtoull(value, &end, 10);
  if (*end != '\0' || *value == '-' || number < lowest || number > highest) {
    const std::string expected = "an integer from " + std::to_string(lowest) + " to " + std::to_string(highest);
    reject(name, value, expected.c_str());
  }
  result = static_cast<Number>(number);
}

void read_switch(const char *name, bool &result) {
  int number = result ? 1 : 0;
  read_number(name, number, 0, 1);
  result = number == 1;
}

void read_bytes(const char *name, size_t &result) {
  const char *value = variable(name);
  if (value == nullptr) return;
  char *end = nullptr;
  size_t bytes = strtoull(value, &end, 10);
  const std::string_view unit = end;
  if (unit == "K") {
    bytes <<= 10;
  } else if (unit == "M") {
    bytes <<= 20;
  } else if (unit == "G") {
    bytes <<= 30;
  } else if (!unit.empty() || end == value) {
    reject(name, value, "a number of bytes, optionally followed by K, M or G");
  }
  result = bytes;
}

void read_driver(Driver &result) {
  const char *value = variable("DRIVER");
  if (value == nullptr) return;
  const std::string_view text = value;
  if (text == "none") {
    result = Driver::kNone;
  } else if (text == "old") {
    result = Driver::kOld;
  } else if (text == "nodevice") {
    result = Driver::kNoDevice;
  } else {
    reject("DRIVER", value, "none, old or nodevice");
  }
}

// Parses "n", or a function name and "n", such as "cudaMalloc:3".
void read_fail_call(Environment &result) {
  const char *value = variable("FAIL_CALL");
  if (value == nullptr) return;
  const std::string_view text = value;
  const size_t colon = text.find(':');
  const char *digits = value;
  if (colon != std::string_view::npos) {
    result.fail_function = text.substr(0, colon);
    digits += colon + 1;
  }
  char *end = nullptr;
  result.fail_call = strtoull(digits, &end, 10);
  if (end == digits || *end != '\0' || result.fail_call == 0) {
    reject("FAIL_CALL", value, "an integer of at least 1, or a function name and such a number: cudaMalloc:3");
  }
}

void read_fail_error(cudaError_t &result) {
  const char *value = variable("FAIL_ERROR");
  if (value != nullptr && !find_error(value, &result))
    reject("FAIL_ERROR", value, "the name of a CUDA error that runtime/errors.cc lists");
}

// A misspelt variable must not silently disable a check.
void reject_unknown_variables() {
  static constexpr std::string_view known[] = {"SEED",       "ORDER",   "RACES",    "GLOBAL_RACES", "FAST",
                                               "LEAKS",      "VERBOSE", "COUNTERS", "DEVICES",      "ARCH",
                                               "SMS",        "L2",      "MEMORY",   "MEMORY_LIMIT", "FAIL_CALL",
                                               "FAIL_ERROR", "DRIVER",  "CONTROL",  "WRONG_KERNEL"};
  for (char **entry = environ; *entry != nullptr; ++entry) {
    const std::string_view text = *entry;
    if (!text.starts_with(kPrefix)) continue;
    const std::string_view name = text.substr(kPrefix.size(), text.find('=') - kPrefix.size());
    if (std::find(std::begin(known), std::end(known), name) == std::end(known)) {
      fprintf(stderr, "emulator: unknown variable %.*s\n", static_cast<int>(text.find('=')), *entry);
      _exit(98);
    }
  }
}

Environment read_all() {
  reject_unknown_variables();
  Environment result;
  read_number("SEED", result.seed, 0, UINT32_MAX);
  result.order = result.seed;
  read_number("ORDER", result.order, 0, UINT32_MAX);
  read_switch("RACES", result.races);
  read_switch("GLOBAL_RACES", result.global_races);
  read_switch("FAST", result.fast);
  read_switch("LEAKS", result.leaks);
  read_number("VERBOSE", result.verbose, 0, 2);
  if (const char *file = variable("COUNTERS")) result.counters = file;
  read_number("DEVICES", result.devices, 1, 64);
  read_number("ARCH", result.architecture, 70, 121);
  read_number("SMS", result.multiprocessors, 1, 1024);
  read_bytes("L2", result.l2);
  read_bytes("MEMORY", result.memory);
  result.memory_limit = result.memory;
  read_bytes("MEMORY_LIMIT", result.memory_limit);
  read_fail_call(result);
  read_fail_error(result.fail_error);
  read_driver(result.driver);
  if (const char *folder = variable("CONTROL")) result.control = folder;
  if (const char *kernel = variable("WRONG_KERNEL")) result.wrong_kernel = kernel;
  return result;
}

}  // namespace

const Environment &environment() {
  static const Environment *const result = new Environment(read_all());
  return *result;
}

}  // namespace lily::emulator::runtime
