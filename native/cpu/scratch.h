// The scratch memory of a task, divided into parts. One function takes the parts of a pass: with memory for the task,
// and without for the size, so that the two cannot differ.
#pragma once

#include "cpu/kernels.h"

namespace lily::cpu {
namespace {

class Scratch {
 public:
  LILY_INLINE explicit Scratch(float *memory) : memory_(memory) {}

  LILY_INLINE float *take(int64_t floats) {
    float *const part = memory_ == nullptr ? nullptr : memory_ + floats_;
    floats_ += floats;
    return part;
  }

  // The floats of all parts.
  LILY_INLINE int64_t floats() const { return floats_; }

 private:
  float *const memory_;
  int64_t floats_ = 0;
};

}  // namespace
}  // namespace lily::cpu
