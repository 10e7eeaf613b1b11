// Unknown opcodes, modifiers, types and shapes are rejected with an error that names them.
#include "tests/harness.h"

namespace lily::emulator::tests {

void test_rejections() {
  struct Rejection {
    const char *statement, *name;
  };
  static constexpr Rejection rejections[] = {
      {"frobnicate.u32 w0, w1;", "frobnicate"},
      {"add.frob.u32 w0, w1, w2;", "frob"},
      {"add.sat.u32 w0, w1, w2;", "add.sat.u32"},
      {"add.b32 w0, w1, w2;", "add.b32"},
      {"mul.u32 w0, w1, w2;", "mul.u32"},
      {"shl.u32 w0, w1, w2;", "shl.u32"},
      {"fma.f32 w0, w1, w2, w3;", "fma.f32"},
      {"add.rna.f32 w0, w1, w2;", "rna"},
      {"setp.lt.b32 p0, w0, w1;", "setp.lt.b32"},
      {"cvt.rn.satfinite.e4m3x2.f32 h0, w0, w1;", "e4m3x2"},
      {"cvt.f32.f64 w0, l0;", "cvt.f32.f64"},
      {"ld.global.v16.u32 w0, [in];", "v16"},
      {"ld.global.frob.u32 w0, [in];", "frob"},
      {"mov.u32 w0, %clock;", "clock"},
      {"st.param.u32 [in], w0;", "st.param.u32"},
      {"atom.global.add.u32 w0, [in], w1;", "atom.global.add.u32"},
      {"shfl.idx.b32 w0, w1, 0, 31;", "shfl.idx.b32"},
      {"vote.sync.all.pred p0, p1, -1;", "vote.sync.all.pred"},
      {"ldmatrix.sync.aligned.m16n16.x1.trans.shared.b8 {w0, w1}, [w2];", "ldmatrix"},
      {"mma.sync.aligned.m8n8k4.row.col.f32.f16.f16.f32 {w0, w1}, {w2}, {w3}, {w0, w1};", "m8n8k4"},
      {"mma.sync.aligned.m16n8k16.row.row.f32.f16.f16.f32 {w0, w1, w2, w3}, {w0, w1, w2, w3}, {w4, w5}, "
       "{w0, w1, w2, w3};",
       "row"},
      {"cp.async.cg.shared.global [w0], [in], 8;", "cp.async.cg.shared.global"},
      {"cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [w0], [in], 16, [w1];", "cp.async.bulk"},
      {"wgmma.fence.aligned;", "wgmma.fence"},
      {"wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {w0, w1, w2}, l0, l1, p0, 1, 1, 0, 0;", "m64n8k16"},
      {"wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {w0, w1, w2, w3}, l0, l1, p0, 1, -1, 0, 0;", "m64n8k16"},
      {"wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {w0, w1, w2, w3}, {w4, w5, w6, w7}, l1, p0, 1, 1, 0;",
       "m64n8k16"},
      {"wgmma.mma_async.sync.aligned.m64n12k16.f32.bf16.bf16 {w0, w1, w2, w3}, l0, l1, p0, 1, 1, 0, 0;", "m64n12k16"},
      {"wgmma.mma_async.sync.aligned.m64n8k8.f32.tf32.tf32 {w0, w1, w2, w3}, l0, l1, p0, 1, 1;", "m64n8k8"},
      {"tex.2d.v4.f32.f32 {w0, w1, w2, w3}, [in, {w4, w5}];", "tex"},
      {"mbarrier.init.shared.b64 [w0], 1;", "mbarrier"},
  };
  for (const Rejection &each : rejections) expect_rejection(each.statement, {each.name});
}

}  // namespace lily::emulator::tests
