// Runs one PTX instruction on every combination of edge values and compares each result with a scalar model.
//
//   check("add.sat.s32", "w=ww", [](Bits a, Bits b, Bits) -> Bits { ... });
//
// The signature gives the kind of the result and of up to three sources: h, w, d are 16, 32 and 64 bits, p a predicate,
// s a 32-bit shift or position; F and D are f32 and f64, H and B f16 and bf16, X and Y their pairs. The models are
// written from the PTX ISA's text and share no code with the emulator.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace lily::emulator::tests {

using Bits = uint64_t;
using Model = std::function<Bits(Bits a, Bits b, Bits c)>;
using RealModel = std::function<double(double a)>;

// `instruction` is an opcode, which gets its operands from the signature, or whole statements (with a semicolon) over
// the registers d, a, b, c, the scratch registers h0, h1 (.b16), w0..w3 (.b32), l0, l1 (.b64) and the predicates p0,
// p1. Results that are NaNs by their kind agree whatever their bits.
void check(const std::string &instruction, const std::string &signature, const Model &model);

// For approximations of f32, or of f64 (kind D): the result is within `relative` of the model, or within `absolute`.
void check_near(const std::string &instruction, const RealModel &model, double relative, double absolute,
                char kind = 'F');

// The statements are not accepted, and the error contains each of `names`.
void refused(const std::string &statements, const std::vector<std::string> &names);

// A check of its own: counts it, and prints `what` if it does not hold.
void expect(bool holds, const std::string &what);

// The PTX of a kernel `test` around a body, over the same registers and, as 64-bit addresses, `in` and `out`.
std::string kernel_of(const std::string &body, const std::string &declarations = {});
// Runs that kernel on `threads` threads of one block; `in` and `out` are arrays of 32-bit words. Gives the kinds of its
// findings, joined by commas.
std::string run_body(const std::string &body, const std::vector<uint32_t> &in, std::vector<uint32_t> &out,
                     unsigned threads, const std::string &declarations = {});

// Opcodes that no check has used.
std::vector<std::string> untested_opcodes();
int failures();
int checks();

// One per file.
void test_integer();
void test_bits();
void test_float();
void test_half();
void test_convert();
void test_compare();
void test_memory();
void test_warp();
void test_matrix();
void test_control();
void test_counters();
void test_findings();
void test_launches();
void test_refusals();

}  // namespace lily::emulator::tests
