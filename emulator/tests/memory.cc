// Loads, stores, atomics, asynchronous copies and addresses. Where the result would depend on the order of the threads,
// each thread accesses its own words.
#include <tuple>

#include "tests/harness.h"

namespace lily::emulator::tests {
namespace {

using Words = std::vector<uint32_t>;

// Runs the body on `threads` threads; it must have no findings and give these results.
void check_body(const std::string &name, const std::string &body, const Words &in, const Words &want,
                unsigned threads = 1, const std::string &declarations = {}) {
  Words out(want.size(), 0);
  const std::string findings = run_body(body, in, out, threads, declarations);
  expect(findings.empty(), name + ": " + findings);
  for (size_t i = 0; i < want.size(); ++i) {
    expect(out[i] == want[i], name + ": word " + std::to_string(i) + " is " + std::to_string(out[i]) + ", expected " +
                                  std::to_string(want[i]));
  }
}

void test_loads() {
  const Words in = {0x81828384, 0x05060708, 0x90000001, 0x7fffffff};
  // Narrow loads into wider registers are extended according to their type.
  check_body("ld.u8", "ld.global.u8 w0, [in];\nst.global.u32 [out], w0;", in, {0x84});
  check_body("ld.s8", "ld.global.s8 w0, [in+1];\nst.global.u32 [out], w0;", in, {0xffffff83});
  check_body("ld.u16", "ld.global.u16 w0, [in];\nst.global.u32 [out], w0;", in, {0x8384});
  check_body("ld.s16", "ld.global.s16 w0, [in+2];\nst.global.u32 [out], w0;", in, {0xffff8182});
  check_body("ld.s32 to 64 bits", "ld.global.s32 l0, [in];\nst.global.u64 [out], l0;", in, {0x81828384, 0xffffffff});
  check_body("ld.v2", "ld.global.v2.u32 {w0, w1}, [in];\nst.global.v2.u32 [out], {w1, w0};", in, {in[1], in[0]});
  check_body("ld.v4", "ld.global.nc.v4.f32 {w0, w1, w2, w3}, [in];\nst.global.v4.f32 [out], {w3, w2, w1, w0};", in,
             {in[3], in[2], in[1], in[0]});
  check_body("ld.v4.u8", "ld.global.v4.u8 {w0, w1, w2, w3}, [in];\nst.global.v4.u8 [out], {w3, w2, w1, w0};", in,
             {0x84838281});
  check_body("ldu", "ldu.global.u32 w0, [in];\nst.global.u32 [out], w0;", in, {in[0]});
  check_body("st.u8", "mov.u32 w0, 0x1ff;\nst.global.u8 [out+1], w0;", in, {0xff00});
  check_body("st.u16", "mov.u32 w0, 0x1ffee;\nst.global.u16 [out+2], w0;", in, {0xffee0000});
  check_body("volatile", "ld.volatile.global.u32 w0, [in];\nst.volatile.global.u32 [out], w0;", in, {in[0]});
  check_body("acquire and release",
             "ld.acquire.gpu.global.u32 w0, [in];\nst.release.gpu.global.u32 [out], w0;\nfence.acq_rel.gpu;\n"
             "membar.gl;",
             in, {in[0]});
  check_body("ld.v2.b64", "ld.global.v2.b64 {l0, l1}, [in];\nst.global.v2.b64 [out], {l1, l0};", in,
             {in[2], in[3], in[0], in[1]});
  check_body("ld.v4.b16", "ld.global.v2.b16 {h0, h1}, [in];\nst.global.v4.b16 [out], {h1, h0, h0, h1};", in,
             {in[0] >> 16 | in[0] << 16, in[0]});
  check_body("ld.shared.v4.b32",
             ".shared .align 16 .b8 tile[16];\nld.global.v4.b32 {w0, w1, w2, w3}, [in];\n"
             "st.shared.v4.b32 [tile], {w0, w1, w2, w3};\nld.shared.v4.b32 {w4, w5, w6, w7}, [tile];\n"
             "st.global.v4.b32 [out], {w7, w6, w5, w4};",
             in, {in[3], in[2], in[1], in[0]});
  check_body("modifiers that change nothing",
             "createpolicy.fractional.L2::evict_first.b64 l0;\n"
             "createpolicy.fractional.L2::evict_last.L2::evict_unchanged.b64 l0, 0.5;\n"
             "ld.global.nc.L1::no_allocate.L2::128B.v2.u32 {w0, w1}, [in];\nld.global.L2::256B.u32 w2, [in+8];\n"
             "ld.global.L1::evict_last.L2::cache_hint.u32 w3, [in+12], l0;\n"
             "prefetch.global.L1 [in];\nprefetch.global.L2::evict_last [in];\n"
             "st.global.cs.u32 [out], w0;\nst.global.L1::no_allocate.u32 [out+4], w1;\n"
             "st.global.L2::cache_hint.v2.u32 [out+8], {w2, w3}, l0;",
             in, in);
  // Every read of a clock returns a later time; 64-bit clocks do not wrap around at 32 bits.
  check_body("clocks",
             "mov.u64 l0, %clock64;\nmov.u64 l1, %clock64;\nsetp.lt.u64 p0, l0, l1;\nselp.u32 w0, 1, 0, p0;\n"
             "mov.u64 l0, %globaltimer;\nmov.u64 l1, %globaltimer;\nsetp.lt.u64 p0, l0, l1;\nselp.u32 w1, 1, 0, p0;\n"
             "mov.u32 w4, %clock;\nmov.u32 w5, %clock;\nsub.u32 w4, w5, w4;\nsetp.ne.u32 p0, w4, 0;\n"
             "selp.u32 w2, 1, 0, p0;\nst.global.v2.u32 [out], {w0, w1};\nst.global.u32 [out+8], w2;",
             in, {1, 1, 1});
  check_body("hints",
             "prefetch.global.L2 [in];\nprefetchu.L1 [in];\ncreatepolicy.fractional.L2::evict_last.b64 l0, 1.0;\n"
             "ld.global.L1::no_allocate.L2::cache_hint.u32 w0, [in], l0;\ngriddepcontrol.wait;\n"
             "griddepcontrol.launch_dependents;\nst.global.u32 [out], w0;",
             in, {in[0]});
}

void test_spaces() {
  const std::string declarations =
      ".global .align 4 .u32 counter = 7;\n.const .align 4 .u32 table[3] = {10, 20, 30};\n"
      ".shared .align 16 .b8 tile[64];\n";
  check_body("a .global variable", "ld.global.u32 w0, [counter];\nst.global.u32 [out], w0;", {0}, {7}, 1, declarations);
  check_body("a .const variable", "ld.const.u32 w0, [table+8];\nst.global.u32 [out], w0;", {0}, {30}, 1, declarations);
  check_body("shared and generic addresses",
             "mov.u64 l0, tile;\ncvta.shared.u64 l1, l0;\nmov.u32 w0, 5;\nst.u32 [l1+4], w0;\n"
             "cvta.to.shared.u64 l2, l1;\nld.shared.u32 w1, [l2+4];\nisspacep.shared p0, l1;\nisspacep.global p1, l1;\n"
             "selp.u32 w2, 1, 0, p0;\nselp.u32 w3, 1, 0, p1;\nst.global.v4.u32 [out], {w1, w2, w3, w0};",
             {0}, {5, 1, 0, 5}, 1, declarations);
  check_body("local memory",
             ".local .align 8 .b8 stack[16];\nmov.u64 l0, stack;\nmov.u32 w0, 9;\nst.local.u32 [l0+8], w0;\n"
             "cvta.local.u64 l1, l0;\nld.u32 w1, [l1+8];\nst.global.u32 [out], w1;",
             {0}, {9});
}

// Checks the returned old value and the resulting word.
void check_atomic(const std::string &operation, const std::string &type, uint32_t old, uint32_t operand,
                  uint32_t after) {
  for (const std::string space : {".global", ""}) {
    check_body("atom." + operation + "." + type,
               "ld.global.v2.u32 {w0, w1}, [in];\nst.global.u32 [out], w0;\natom" + space + "." + operation + "." +
                   type + " w2, [out], w1;\nst.global.u32 [out+4], w2;",
               {old, operand}, {after, old});
    if (operation == "exch") continue;
    check_body("red." + operation + "." + type,
               "ld.global.v2.u32 {w0, w1}, [in];\nst.global.u32 [out], w0;\nred" + space + "." + operation + "." +
                   type + " [out], w1;",
               {old, operand}, {after});
  }
}

void test_atomics() {
  check_atomic("add", "u32", 0xffffffff, 3, 2);
  check_atomic("add", "s32", 5, 0xfffffff0, 0xfffffff5);
  check_atomic("add", "f32", 0x3f800000, 0x40000000, 0x40400000);
  check_atomic("add.noftz", "f16x2", 0x3c003c00, 0x40003c00, 0x42004000);
  check_atomic("add.noftz", "bf16x2", 0x3f803f80, 0x40003f80, 0x40404000);
  check_atomic("min", "u32", 5, 0xffffffff, 5);
  check_atomic("min", "s32", 5, 0xffffffff, 0xffffffff);
  check_atomic("max", "u32", 5, 0xffffffff, 0xffffffff);
  check_atomic("max", "s32", 5, 0xffffffff, 5);
  check_atomic("and", "b32", 0xff00ff00, 0x0ff00ff0, 0x0f000f00);
  check_atomic("or", "b32", 0xff00ff00, 0x0ff00ff0, 0xfff0fff0);
  check_atomic("xor", "b32", 0xff00ff00, 0x0ff00ff0, 0xf0f0f0f0);
  check_atomic("exch", "b32", 1, 2, 2);
  check_atomic("inc", "u32", 4, 5, 5);
  check_atomic("inc", "u32", 5, 5, 0);
  check_atomic("dec", "u32", 0, 5, 5);
  check_atomic("dec", "u32", 6, 5, 5);
  check_atomic("dec", "u32", 3, 5, 2);
  check_body("atom.cas.b32",
             "mov.u32 w0, 4;\nst.global.u32 [out], w0;\natom.global.cas.b32 w1, [out], 4, 9;\n"
             "atom.global.cas.b32 w2, [out], 4, 11;\nst.global.u32 [out+4], w1;\nst.global.u32 [out+8], w2;",
             {0}, {9, 4, 9});
  check_body("atom.add.u64",
             "mov.u64 l0, 0xffffffff;\nst.global.u64 [out], l0;\natom.global.add.u64 l1, [out], 2;\n"
             "st.global.u64 [out+8], l1;",
             {0}, {1, 1, 0xffffffff, 0});
  // 16 bits: the other half of the word must not change.
  for (const auto &[type, one, two, three] :
       {std::tuple{"f16", 0x3c00u, 0x4000u, 0x4200u}, {"bf16", 0x3f80u, 0x4000u, 0x4040u}}) {
    const std::string add = std::string("atom.global.add.noftz.") + type;
    check_body(add,
               "ld.global.u32 w0, [in];\nst.global.u32 [out], w0;\nld.global.u16 h0, [in+4];\n" + add +
                   " h1, [out+2], h0;\nst.global.u16 [out+4], h1;",
               {one << 16 | 0x1234, two}, {three << 16 | 0x1234, one});
  }
  check_body("atom.add.f64",
             "mov.f64 l0, 0d3FF0000000000000;\nst.global.f64 [out], l0;\nmov.f64 l1, 0d3CA8000000000000;\n"
             "atom.global.add.f64 l2, [out], l1;\nst.global.f64 [out+8], l2;\nred.global.add.f64 [out], l0;",
             {0}, {0, 0x40000000, 0, 0x3ff00000});  // 1 + 1.5 / 2^53 rounds to 1 + 2^-52, and adding 1 rounds to 2
  check_body("atom.cas.b16",
             "mov.u32 w0, 0x00070004;\nst.global.u32 [out], w0;\nmov.u16 h0, 4;\nmov.u16 h1, 9;\n"
             "atom.global.cas.b16 h0, [out], h0, h1;\nst.global.u16 [out+4], h0;\nmov.u16 h0, 4;\n"
             "atom.global.cas.b16 h0, [out+2], h0, h1;\nst.global.u16 [out+6], h0;",
             {0}, {0x00070009, 0x00070004});
  check_body("atom.cas.b64",
             "mov.u64 l0, 0x100000004;\nst.global.u64 [out], l0;\natom.global.cas.b64 l1, [out], l0, 9;\n"
             "atom.global.cas.b64 l2, [out], l0, 11;\nst.global.u64 [out+8], l1;\nst.global.u64 [out+16], l2;",
             {0}, {9, 0, 4, 1, 9, 0});
  check_body("atom.exch.b64, .min.s64, .max.u64, .and.b64, .xor.b64",
             "mov.u64 l0, 0x8000000000000001;\nst.global.u64 [out], l0;\nmov.u64 l1, 5;\n"
             "atom.global.min.s64 l2, [out], l1;\natom.global.max.u64 l2, [out], l1;\n"
             "atom.global.exch.b64 l2, [out], l1;\nst.global.u64 [out+8], l2;\n"
             "atom.global.and.b64 l2, [out], 4;\natom.global.xor.b64 l2, [out], l0;",
             {0}, {5, 0x80000000, 1, 0x80000000});
  check_body("atom.shared.add of 64 threads",
             ".shared .align 4 .u32 sum;\nmov.u32 w0, %tid.x;\nsetp.eq.u32 p0, w0, 0;\n@p0 st.shared.u32 [sum], 0;\n"
             "bar.sync 0;\natom.shared.add.u32 w1, [sum], w0;\nbar.sync 0;\nld.shared.u32 w2, [sum];\n"
             "@p0 st.global.u32 [out], w2;",
             {0}, {2016}, 64);
}

void test_async_copies() {
  const std::string start = ".shared .align 16 .b8 tile[32];\nmov.u32 w0, tile;\n";
  const std::string finish = "ld.shared.v4.u32 {w1, w2, w3, w4}, [w0];\nst.global.v4.u32 [out], {w1, w2, w3, w4};";
  const Words in = {1, 2, 3, 4, 5, 6, 7, 8};
  check_body(
      "cp.async.cg 16",
      start + "cp.async.cg.shared.global [w0], [in], 16;\ncp.async.commit_group;\ncp.async.wait_group 0;\n" + finish,
      in, {1, 2, 3, 4});
  check_body("cp.async.cg 16 with 8 bytes of source",
             start + "cp.async.cg.shared.global [w0], [in], 16, 8;\ncp.async.wait_all;\n" + finish, in, {1, 2, 0, 0});
  check_body("cp.async.ca 4 and 8",
             start +
                 "cp.async.ca.shared.global [w0], [in+4], 4;\ncp.async.ca.shared.global [w0+4], [in+16], 4;\n"
                 "cp.async.ca.shared.global [w0+8], [in+24], 8;\ncp.async.commit_group;\ncp.async.wait_group 0;\n" +
                 finish,
             in, {2, 5, 7, 8});
  check_body("cp.async with hints",
             start +
                 "createpolicy.fractional.L2::evict_first.b64 l0;\n"
                 "cp.async.cg.shared.global.L2::128B [w0], [in], 16;\ncp.async.wait_all;\n"
                 "cp.async.cg.shared.global.L2::cache_hint [w0], [in+16], 16, l0;\ncp.async.wait_all;\n"
                 "cp.async.ca.shared.global.L2::256B [w0+4], [in], 4, 0;\ncp.async.wait_all;\n" +
                 finish,
             in, {5, 0, 7, 8});
  Words out(4);
  const std::string weak =
      "cp.async.cg.shared.global [w0], [in], 16;\ncp.async.commit_group;\n"
      "cp.async.wait_group 1;\n";
  expect(run_body(start + weak + finish, in, out, 1) == "async copy", "a wait that is too weak is found");
  // With two groups in flight, wait_group 1 waits for the older one.
  check_body("cp.async.wait_group 1",
             start +
                 "cp.async.cg.shared.global [w0], [in], 16;\ncp.async.commit_group;\n"
                 "cp.async.cg.shared.global [w0+16], [in+16], 16;\ncp.async.commit_group;\ncp.async.wait_group 1;\n" +
                 finish + "\ncp.async.wait_all;",
             in, {1, 2, 3, 4});
}

}  // namespace

void test_memory() {
  test_loads();
  test_spaces();
  test_atomics();
  test_async_copies();
}

}  // namespace lily::emulator::tests
