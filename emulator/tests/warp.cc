// Operations between the 32 lanes of a warp, compared with loops over the lanes.
#include "tests/harness.h"

namespace lily::emulator::tests {
namespace {

using Words = std::vector<uint32_t>;

Words lane_values() {
  Words values(32);
  for (uint32_t lane = 0; lane < 32; ++lane) values[lane] = (lane * 0x9e3779b9u) ^ (lane % 5 == 0 ? 0x80000000u : 0);
  return values;
}

// Each lane loads its value into w0 and stores w1.
Words run_lanes(const std::string &name, const std::string &body, const Words &in, unsigned threads = 32) {
  Words out(32, 0);
  const std::string findings = run_body(
      "mov.u32 w9, %laneid;\nmad.wide.u32 in, w9, 4, in;\nmad.wide.u32 out, w9, 4, out;\n"
      "ld.global.u32 w0, [in];\n" +
          body + "\nst.global.u32 [out], w1;",
      in, out, threads);
  expect(findings.empty(), name + ": " + findings);
  return out;
}

void check_lanes(const std::string &body, const std::function<uint32_t(uint32_t lane, const Words &values)> &model,
                 const Words &values = lane_values()) {
  const Words out = run_lanes(body, body, values);
  for (uint32_t lane = 0; lane < 32; ++lane) {
    const uint32_t want = model(lane, values);
    expect(out[lane] == want, body + ": lane " + std::to_string(lane) + " has " + std::to_string(out[lane]) +
                                  ", expected " + std::to_string(want));
  }
}

// Operand c has the clamp value in its low five bits and the segment mask from bit 8 on, as __shfl_sync sets it.
void test_shuffles() {
  for (const uint32_t width : {32u, 16u, 8u, 2u}) {
    for (const uint32_t offset : {0u, 1u, 3u, 8u, 31u}) {
      for (const std::string mode : {"up", "down", "bfly", "idx"}) {
        const uint32_t segment = (32 - width) << 8, c = mode == "up" ? segment : segment | 31;
        const auto source = [=](uint32_t lane) {
          const int first = static_cast<int>(lane / width * width), last = first + static_cast<int>(width) - 1;
          int from = static_cast<int>(lane);
          bool inside = true;
          if (mode == "up") from -= static_cast<int>(offset), inside = from >= first;
          if (mode == "down") from += static_cast<int>(offset), inside = from <= last;
          if (mode == "bfly") from ^= static_cast<int>(offset), inside = from <= last;
          if (mode == "idx") from = first + static_cast<int>(offset % width);
          return inside ? from : -1;
        };
        const std::string operands = ", w0, " + std::to_string(offset) + ", " + std::to_string(c) + ", 0xffffffff;";
        check_lanes("shfl.sync." + mode + ".b32 w1" + operands, [=](uint32_t lane, const Words &values) {
          return values[source(lane) < 0 ? lane : static_cast<uint32_t>(source(lane))];
        });
        check_lanes("shfl.sync." + mode + ".b32 w2|p0" + operands + "\nselp.u32 w1, 1, 0, p0;",
                    [=](uint32_t lane, const Words &) -> uint32_t { return source(lane) >= 0; });
      }
    }
  }
}

void test_votes() {
  const std::string odd = "and.b32 w2, w0, 1;\nsetp.ne.u32 p0, w2, 0;\n";
  const auto ballot = [](const Words &values) {
    uint32_t mask = 0;
    for (uint32_t lane = 0; lane < 32; ++lane) mask |= (values[lane] & 1) << lane;
    return mask;
  };
  for (const Words &values : {lane_values(), Words(32, 1), Words(32, 2)}) {
    check_lanes(
        odd + "vote.sync.ballot.b32 w1, p0, 0xffffffff;", [=](uint32_t, const Words &v) { return ballot(v); }, values);
    check_lanes(
        odd + "vote.sync.ballot.b32 w1, !p0, 0xffffffff;", [=](uint32_t, const Words &v) { return ~ballot(v); },
        values);
  }
  // With a member mask, the even lanes form their own group.
  check_lanes(
      "mov.u32 w1, 0;\nand.b32 w2, w9, 1;\nsetp.eq.u32 p0, w2, 0;\nsetp.ne.u32 p1, w0, 0;\n"
      "@p0 vote.sync.ballot.b32 w1, p1, 0x55555555;",
      [](uint32_t lane, const Words &) -> uint32_t { return lane % 2 == 0 ? 0x55555555 : 0; }, Words(32, 1));
}

}  // namespace

void test_warp() {
  test_shuffles();
  test_votes();
}

}  // namespace lily::emulator::tests
