#include "tests/harness.h"

#include <bit>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <set>

#include "core/emulator.h"
#include "core/instruction.h"
#include "tests/edge_values.h"

namespace lily::emulator::tests {
namespace {

int failure_count = 0, check_count = 0;
std::set<std::string> used;

int width_of(char kind) {
  switch (kind) {
    case 'h':
    case 'H':
    case 'B': return 16;
    case 'd':
    case 'D': return 64;
    default: return 32;
  }
}

bool is_nan(char kind, Bits bits) {
  switch (kind) {
    case 'F': return (bits & 0x7fffffff) > 0x7f800000;
    case 'D': return (bits & ~0ull >> 1) > 0x7ffull << 52;
    case 'H': return (bits & 0x7fff) > 0x7c00;
    case 'B': return (bits & 0x7fff) > 0x7f80;
    default: return false;
  }
}

bool agree(char kind, Bits got, Bits want) {
  if (kind == 'X' || kind == 'Y') {
    const char half = kind == 'X' ? 'H' : 'B';
    return agree(half, got & 0xffff, want & 0xffff) && agree(half, got >> 16, want >> 16 & 0xffff);
  }
  if (is_nan(kind, got) || is_nan(kind, want)) return is_nan(kind, got) && is_nan(kind, want);
  return got == (want & (~0ull >> (64 - width_of(kind))));
}

std::string hexadecimal(Bits bits) {
  char text[20];
  std::snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(bits));
  return text;
}

// Records the opcode of each statement, after its guard.
void remember_opcodes(const std::string &body) {
  std::string word;
  bool at_start = true;
  for (const char c : body) {
    if (c == ';' || c == '}' || c == ':') {
      if (at_start && c == ';') used.insert(word);
      word.clear();
      at_start = true;
    } else if (std::isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '@' || c == '!' || c == '%') {
      if (at_start) word += c;
    } else if (at_start && !word.empty()) {
      if (word[0] != '@') {
        used.insert(word);
        at_start = false;
      }
      word.clear();
    }
  }
}

std::string load(const std::string &name, char kind, int index) {
  const std::string address = "[from+" + std::to_string(8 * index) + "];\n";
  if (kind == 'p') return "ld.global.b32 w0, " + address + "setp.ne.u32 " + name + ", w0, 0;\n";
  return "ld.global.b" + std::to_string(width_of(kind)) + " " + name + ", " + address;
}

std::string declare(const std::string &name, char kind) {
  return ".reg ." + (kind == 'p' ? std::string("pred") : "b" + std::to_string(width_of(kind))) + " " + name + ";\n";
}

constexpr unsigned kBlock = 128;

// Runs the instruction on rows of three sources each.
std::vector<Bits> results_of(const std::string &instruction, const std::string &signature,
                             const std::vector<Bits> &rows) {
  const char kind = signature[0];
  const std::string sources = signature.substr(2);
  static const char *const names[] = {"a", "b", "c"};
  std::string statements = instruction, loads, declarations = declare("d", kind);
  if (instruction.find(';') == std::string::npos) statements += " d";
  for (size_t i = 0; i < sources.size(); ++i) {
    declarations += declare(names[i], sources[i]);
    loads += load(names[i], sources[i], static_cast<int>(i));
    if (instruction.find(';') == std::string::npos) statements += std::string(", ") + names[i];
  }
  if (instruction.find(';') == std::string::npos) statements += ";";
  remember_opcodes(statements);
  const std::string store = kind == 'p' ? "selp.b32 w0, 1, 0, d;\nst.global.b32 [to], w0;\n"
                                        : "st.global.b" + std::to_string(width_of(kind)) + " [to], d;\n";
  const std::string body = declarations +
                           ".reg .b64 from, to;\n.reg .b32 index, number, size;\n"
                           "mov.u32 index, %tid.x;\nmov.u32 number, %ctaid.x;\nmov.u32 size, %ntid.x;\n"
                           "mad.lo.s32 index, number, size, index;\n"
                           "mad.wide.u32 from, index, 24, in;\nmad.wide.u32 to, index, 8, out;\n" +
                           loads + statements + "\n" + store;
  const size_t count = rows.size() / 3, padded = (count + kBlock - 1) / kBlock * kBlock;
  const auto module = Module::parse(kernel_of(body));
  auto *in = static_cast<Bits *>(device_memory().allocate(padded * 24));
  auto *out = static_cast<Bits *>(device_memory().allocate(padded * 8));
  for (size_t i = 0; i < padded * 3; ++i) in[i] = rows[i % rows.size()];
  std::memset(out, 0, padded * 8);
  device_memory().mark_initialised(in, padded * 24);
  device_memory().mark_initialised(out, padded * 8);
  const LaunchResult result =
      run(module->kernel("test"), {static_cast<uint32_t>(padded / kBlock)}, {kBlock}, 0, LaunchOptions{}, in, out);
  for (const Finding &finding : result.findings) expect(false, instruction + ": " + finding.text());
  std::vector<Bits> results(out, out + count);
  device_memory().release(in);
  device_memory().release(out);
  return results;
}

std::vector<Bits> rows_for(const std::string &sources) {
  const bool few = sources.size() == 3;
  std::vector<std::vector<Bits>> values(3, std::vector<Bits>{0});
  for (size_t i = 0; i < sources.size(); ++i) values[i] = edge_values(sources[i], few);
  std::vector<Bits> rows;
  for (const Bits a : values[0]) {
    for (const Bits b : values[1]) {
      for (const Bits c : values[2]) rows.insert(rows.end(), {a, b, c});
    }
  }
  return rows;
}

}  // namespace

void expect(bool holds, const std::string &what) {
  ++check_count;
  if (holds) return;
  if (++failure_count <= 100) std::printf("FAILED %s\n", what.c_str());
}

void check(const std::string &instruction, const std::string &signature, const Model &model) {
  const std::vector<Bits> rows = rows_for(signature.substr(2));
  std::vector<Bits> results;
  try {
    results = results_of(instruction, signature, rows);
  } catch (const Error &error) {
    return expect(false, instruction + ": " + error.what());
  }
  int wrong = 0;
  std::string first;
  for (size_t i = 0; i < results.size(); ++i) {
    const Bits *row = &rows[3 * i], want = model(row[0], row[1], row[2]);
    if (agree(signature[0], results[i], want) || wrong++ > 0) continue;
    first = instruction + " of " + hexadecimal(row[0]) + ", " + hexadecimal(row[1]) + ", " + hexadecimal(row[2]) +
            " is " + hexadecimal(results[i]) + ", expected " + hexadecimal(want);
  }
  expect(wrong == 0, first + " (" + std::to_string(wrong) + " of " + std::to_string(results.size()) + " wrong)");
}

void check_near(const std::string &instruction, const RealModel &model, double relative) {
  const auto number = [](Bits bits) { return static_cast<double>(std::bit_cast<float>(static_cast<uint32_t>(bits))); };
  const std::vector<Bits> rows = rows_for("F");
  std::vector<Bits> results;
  try {
    results = results_of(instruction, "F=F", rows);
  } catch (const Error &error) {
    return expect(false, instruction + ": " + error.what());
  }
  for (size_t i = 0; i < results.size(); ++i) {
    const double got = number(results[i]), want = static_cast<float>(model(number(rows[3 * i])));
    const bool near =
        std::isnan(want) ? std::isnan(got) : got == want || std::fabs(got - want) <= relative * std::fabs(want);
    expect(near, instruction + " of " + hexadecimal(rows[3 * i]) + " is " + std::to_string(got) + ", expected " +
                     std::to_string(want));
  }
}

std::string kernel_of(const std::string &body, const std::string &declarations) {
  return ".version 8.8\n.target sm_100\n.address_size 64\n" + declarations +
         "\n.visible .entry test(.param .u64 test_in, .param .u64 test_out)\n{\n"
         ".reg .pred p0, p1;\n.reg .b16 h0, h1;\n.reg .b32 w0, w1, w2, w3, w4, w5, w6, w7, w8, w9;\n"
         ".reg .b64 l0, l1, l2, in, out;\n"
         "ld.param.u64 in, [test_in];\nld.param.u64 out, [test_out];\n"
         "cvta.to.global.u64 in, in;\ncvta.to.global.u64 out, out;\n" +
         body + "\nret;\n}\n";
}

std::string run_body(const std::string &body, const std::vector<uint32_t> &in, std::vector<uint32_t> &out,
                     unsigned threads, const std::string &declarations) {
  remember_opcodes(body);
  void *from = device_memory().allocate(in.size() * 4), *to = device_memory().allocate(out.size() * 4);
  std::string kinds;
  try {
    const auto module = Module::parse(kernel_of(body, declarations));
    std::memcpy(from, in.data(), in.size() * 4);
    std::memcpy(to, out.data(), out.size() * 4);
    device_memory().mark_initialised(from, in.size() * 4);
    device_memory().mark_initialised(to, out.size() * 4);
    const LaunchResult result = run(module->kernel("test"), {1}, {threads}, 0, LaunchOptions{}, from, to);
    for (const Finding &finding : result.findings)
      kinds += (kinds.empty() ? "" : ",") + std::string(name_of(finding.kind));
    std::memcpy(out.data(), to, out.size() * 4);
  } catch (const Error &error) {
    kinds = error.what();
  }
  device_memory().release(from);
  device_memory().release(to);
  return kinds;
}

void expect_rejection(const std::string &statements, const std::vector<std::string> &names) {
  try {
    Module::parse(kernel_of(statements))->kernel("test");
    expect(false, statements + " was accepted");
  } catch (const Error &error) {
    for (const std::string &name : names) {
      expect(std::string(error.what()).find(name) != std::string::npos,
             statements + " was rejected without naming " + name + ": " + error.what());
    }
  }
}

std::vector<std::string> untested_opcodes() {
  std::vector<std::string> names;
  for (const auto &table : {instruction_table(), control_table()}) {
    for (const OpcodeEntry &entry : table) {
      if (used.count(std::string(entry.opcode)) == 0) names.emplace_back(entry.opcode);
    }
  }
  return names;
}

int failures() { return failure_count; }
int checks() { return check_count; }

}  // namespace lily::emulator::tests
