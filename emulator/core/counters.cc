// Adds counters and writes them as JSON.
#include "core/counters.h"

#include <array>
#include <cstdio>

namespace lily::emulator {
namespace {

struct Field {
  const char *name;
  uint64_t Counters::*value;
};
constexpr std::array<Field, 11> kFields = {{
    {"thread_instructions", &Counters::thread_instructions},
    {"matrix_instructions", &Counters::matrix_instructions},
    {"global_requests", &Counters::global_requests},
    {"global_sectors", &Counters::global_sectors},
    {"global_sectors_ideal", &Counters::global_sectors_ideal},
    {"shared_requests", &Counters::shared_requests},
    {"shared_wavefronts", &Counters::shared_wavefronts},
    {"shared_wavefronts_ideal", &Counters::shared_wavefronts_ideal},
    {"barriers", &Counters::barriers},
    {"repeated_load_bytes", &Counters::repeated_load_bytes},
    {"short_wait_bytes", &Counters::short_wait_bytes},
}};

std::string quoted(const std::string &text) {
  std::string result = "\"";
  for (const char c : text) {
    char escaped[8];
    if (c == '"' || c == '\\') {
      result += '\\';
      result += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      std::snprintf(escaped, sizeof escaped, "\\u%04x", c);
      result += escaped;
    } else {
      result += c;
    }
  }
  return result + '"';
}

std::string number(const char *name, uint64_t value) { return quoted(name) + ": " + std::to_string(value); }

std::string fields(const Counters &counters) {
  std::string text;
  for (const Field &field : kFields) text += (text.empty() ? "" : ", ") + number(field.name, counters.*field.value);
  return text;
}

std::string line(const LineKey &key, const Counters &counters) {
  std::string text = "{\"file\": " + quoted(key.file) + ", " + number("line", key.line);
  if (!key.inlined_file.empty()) {
    text += ", \"inlined_file\": " + quoted(key.inlined_file) + ", " + number("inlined_line", key.inlined_line);
  }
  return text + ", " + fields(counters) + "}";
}

}  // namespace

Counters &Counters::operator+=(const Counters &other) {
  for (const Field &field : kFields) this->*field.value += other.*field.value;
  return *this;
}

KernelCounters &KernelCounters::operator+=(const KernelCounters &other) {
  launches += other.launches;
  total += other.total;
  distinct_sectors_read += other.distinct_sectors_read;
  distinct_sectors_written += other.distinct_sectors_written;
  for (const auto &[key, counters] : other.lines) lines[key] += counters;
  return *this;
}

std::string to_json(const std::map<std::string, KernelCounters> &kernels) {
  std::string text = "{\"kernels\": {";
  const char *separator = "\n";
  for (const auto &[name, kernel] : kernels) {
    text += separator + ("  " + quoted(name)) + ": {" + number("launches", kernel.launches) + ", " +
            fields(kernel.total) + ", " + number("distinct_sectors_read", kernel.distinct_sectors_read) + ", " +
            number("distinct_sectors_written", kernel.distinct_sectors_written) + ", \"lines\": [";
    const char *comma = "\n";
    for (const auto &[key, counters] : kernel.lines) {
      text += comma + ("    " + line(key, counters));
      comma = ",\n";
    }
    text += "]}";
    separator = ",\n";
  }
  return text + "\n}}\n";
}

}  // namespace lily::emulator
