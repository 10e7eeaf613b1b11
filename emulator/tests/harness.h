// Runs one PTX instruction on every combination of edge values and compares each result with a scalar model.
//
//   check("add.s32", "w=ww", [](Bits a, Bits b, Bits) -> Bits { ... });
//
// The signature gives the kinds of the result and of up to three sources: h, w, d are 16, 32 and 64 bits, p a
// predicate, s a 32-bit shift amount or position; F and D are f32 and f64, H and B f16 and bf16, X and Y pairs of
// these. The models are written from the text of the PTX ISA and share no code with the emulator.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace lily::emulator::tests {

using Bits = uint64_t;
using Model = std::function<Bits(Bits a, Bits b, Bits c)>;
using RealModel = std::function<double(double a)>;

// `instruction` is an opcode, whose operands follow from the signature, or complete statements (with a semicolon) over
// the registers d, a, b, c, the scratch registers h0, h1 (.b16), w0..w3 (.b32), l0, l1 (.b64) and the predicates p0,
// p1. NaNs of the result's kind count as equal regardless of their bits.
void check(const std::string &instruction, const std::string &signature, const Model &model);

// For approximations of f32: the result must be within `relative` of the model.
void check_near(const std::string &instruction, const RealModel &model, double relative);

// The statements must be rejected with an error that contains each of `names`.
void expect_rejection(const std::string &statements, const std::vector<std::string> &names);

// Counts a check and prints `what` if the condition is false.
void expect(bool holds, const std::string &what);

// The PTX of a kernel `test` around a body, with the same registers and the 64-bit addresses `in` and `out`.
std::string kernel_of(const std::string &body, const std::string &declarations = {});
// Runs that kernel on one block of `threads` threads; `in` and `out` are arrays of 32-bit words. Returns the kinds of
// its findings, separated by commas.
std::string run_body(const std::string &body, const std::vector<uint32_t> &in, std::vector<uint32_t> &out,
                     unsigned threads, const std::string &declarations = {});

// Opcodes that no check has used.
std::vector<std::string> untested_opcodes();
int failures();
int checks();

// One function per file.
void test_integer();
void test_bits();
void test_float();
void test_convert();
void test_compare();
void test_memory();
void test_warp();
void test_matrix();
void test_warpgroup();
void test_warpgroup_findings();
void test_control();
void test_counters();
void test_findings();
void test_launches();
void test_dependent_launch();
void test_rejections();

}  // namespace lily::emulator::tests
