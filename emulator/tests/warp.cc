// Operations between the 32 lanes of a warp, compared with loops over the lanes.
#include <algorithm>

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
  const std::string select = "\nselp.u32 w1, 1, 0, p1;";
  for (const Words &values : {lane_values(), Words(32, 1), Words(32, 2)}) {
    check_lanes(
        odd + "vote.sync.ballot.b32 w1, p0, 0xffffffff;", [=](uint32_t, const Words &v) { return ballot(v); }, values);
    check_lanes(
        odd + "vote.sync.all.pred p1, p0, 0xffffffff;" + select,
        [=](uint32_t, const Words &v) -> uint32_t { return ballot(v) == 0xffffffff; }, values);
    check_lanes(
        odd + "vote.sync.any.pred p1, p0, 0xffffffff;" + select,
        [=](uint32_t, const Words &v) -> uint32_t { return ballot(v) != 0; }, values);
    check_lanes(
        odd + "vote.sync.uni.pred p1, p0, 0xffffffff;" + select,
        [=](uint32_t, const Words &v) -> uint32_t { return ballot(v) == 0xffffffff || ballot(v) == 0; }, values);
    check_lanes(
        odd + "vote.sync.ballot.b32 w1, !p0, 0xffffffff;", [=](uint32_t, const Words &v) { return ~ballot(v); },
        values);
    check_lanes(
        "and.b32 w2, w0, 3;\nmatch.any.sync.b32 w1, w2, 0xffffffff;",
        [](uint32_t lane, const Words &v) {
          uint32_t mask = 0;
          for (uint32_t i = 0; i < 32; ++i) mask |= uint32_t{(v[i] & 3) == (v[lane] & 3)} << i;
          return mask;
        },
        values);
    check_lanes(
        "match.all.sync.b32 w1|p0, w0, 0xffffffff;\n@!p0 mov.u32 w1, 77;",
        [](uint32_t, const Words &v) -> uint32_t {
          return std::all_of(v.begin(), v.end(), [&](uint32_t x) { return x == v[0]; }) ? 0xffffffff : 77;
        },
        values);
  }
  check_lanes("elect.sync w2|p0, 0xffffffff;\nselp.u32 w1, 100, 0, p0;\nadd.u32 w1, w1, w2;",
              [](uint32_t lane, const Words &) -> uint32_t { return lane == 0 ? 100 : 0; });
  check_lanes("activemask.b32 w1;", [](uint32_t, const Words &) -> uint32_t { return 0xffffffff; });
}

// With a member mask, the even lanes form their own group.
void test_reductions() {
  const auto fold = [](const std::string &name, uint32_t x, uint32_t y) -> uint32_t {
    const auto a = static_cast<int32_t>(x), b = static_cast<int32_t>(y);
    if (name == "add.u32" || name == "add.s32") return x + y;
    if (name == "min.u32") return std::min(x, y);
    if (name == "max.u32") return std::max(x, y);
    if (name == "min.s32") return static_cast<uint32_t>(std::min(a, b));
    if (name == "max.s32") return static_cast<uint32_t>(std::max(a, b));
    return name == "and.b32" ? x & y : name == "or.b32" ? x | y : x ^ y;
  };
  for (const std::string name :
       {"add.u32", "add.s32", "min.u32", "max.u32", "min.s32", "max.s32", "and.b32", "or.b32", "xor.b32"}) {
    for (const uint32_t step : {1u, 2u}) {
      const std::string mask = step == 1 ? "0xffffffff" : "0x55555555";
      check_lanes("mov.u32 w1, 0;\nand.b32 w2, w9, " + std::to_string(step - 1) +
                      ";\nsetp.eq.u32 p0, w2, 0;\n@p0 redux.sync." + name + " w1, w0, " + mask + ";",
                  [=](uint32_t lane, const Words &values) {
                    if (lane % step != 0) return 0u;
                    uint32_t result = values[0];
                    for (uint32_t i = step; i < 32; i += step) result = fold(name, result, values[i]);
                    return result;
                  });
    }
  }
}

}  // namespace

void test_warp() {
  test_shuffles();
  test_votes();
  test_reductions();
}

}  // namespace lily::emulator::tests
