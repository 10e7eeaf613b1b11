// Loads, stores, asynchronous copies and addresses.
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
  check_body("st.u8", "mov.u32 w0, 0x1ff;\nst.global.u8 [out+1], w0;", in, {0xff00});
  check_body("st.u16", "mov.u32 w0, 0x1ffee;\nst.global.u16 [out+2], w0;", in, {0xffee0000});
  check_body("volatile", "ld.volatile.global.u32 w0, [in];\nst.volatile.global.u32 [out], w0;", in, {in[0]});
  check_body("ld.v2.b64", "ld.global.v2.b64 {l0, l1}, [in];\nst.global.v2.b64 [out], {l1, l0};", in,
             {in[2], in[3], in[0], in[1]});
  check_body("ld.v4.b16", "ld.global.v2.b16 {h0, h1}, [in];\nst.global.v4.b16 [out], {h1, h0, h0, h1};", in,
             {in[0] >> 16 | in[0] << 16, in[0]});
  check_body("ld.shared.v4.b32",
             ".shared .align 16 .b8 tile[16];\nld.global.v4.b32 {w0, w1, w2, w3}, [in];\n"
             "st.shared.v4.b32 [tile], {w0, w1, w2, w3};\nld.shared.v4.b32 {w4, w5, w6, w7}, [tile];\n"
             "st.global.v4.b32 [out], {w7, w6, w5, w4};",
             in, {in[3], in[2], in[1], in[0]});
  check_body("hints and griddepcontrol",
             "ld.global.cg.u32 w0, [in];\ngriddepcontrol.wait;\ngriddepcontrol.launch_dependents;\n"
             "st.global.cg.u32 [out], w0;",
             in, {in[0]});
}

void test_spaces() {
  check_body("shared and generic addresses",
             "mov.u64 l0, tile;\ncvta.shared.u64 l1, l0;\nmov.u32 w0, 5;\nst.u32 [l1+4], w0;\n"
             "cvta.to.shared.u64 l2, l1;\nld.shared.u32 w1, [l2+4];\nst.global.v2.u32 [out], {w1, w0};",
             {0}, {5, 5}, 1, ".shared .align 16 .b8 tile[64];\n");
  check_body("local memory",
             ".local .align 8 .b8 stack[16];\nmov.u64 l0, stack;\nmov.u32 w0, 9;\nst.local.u32 [l0+8], w0;\n"
             "cvta.local.u64 l1, l0;\nld.u32 w1, [l1+8];\nst.global.u32 [out], w1;",
             {0}, {9});
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
  check_body("cp.async.ca 4 without a source",
             start +
                 "cp.async.cg.shared.global [w0], [in+16], 16;\ncp.async.wait_all;\n"
                 "cp.async.ca.shared.global [w0+4], [in], 4, 0;\ncp.async.wait_all;\n" +
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
  test_async_copies();
}

}  // namespace lily::emulator::tests
