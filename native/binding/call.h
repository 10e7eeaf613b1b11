// A call of a backend that any thread can run, and what it was read from.
#pragma once

#include <stdint.h>

#include <string>
#include <vector>

#include "binding/descriptor.h"
#include "lily/cpu.h"

namespace lily::binding {

// Memory of an operand. data == nullptr: the operand is not given; bytes < 0: the given value has no memory.
struct Memory {
  char *data = nullptr;
  int64_t bytes = 0;
};

// code == nullptr: none.
struct Error {
  const char *code = nullptr;
  std::string message;
};

// A call without the vectors that those with lists refer to. It can be copied byte by byte.
struct Call {
  operation::Position operation;
  const lily_backend *backend;
  int32_t device;
  lily_stream memory_stream;
  union {
    lily_forward forward;
    lily_backward backward;
    lily_forward_rows forward_rows;
    lily_backward_rows backward_rows;
    lily_linear linear;
    lily_cpu_attention attention;
    lily_cpu_attention_backward attention_backward;
    lily_fold fold;
    lily_draw draw;
    lily_adamw adamw;
    lily_matmul matmul;
    lily_elementwise elementwise;
  };

  // The size of the workspace; 0: the call needs none.
  lily_status workspace_bytes(size_t *bytes) const;
  void give_workspace(void *workspace, size_t bytes);
  lily_status run() const;
};

// What a call with a list refers to.
struct Lists {
  std::vector<lily_forward> forwards;
  std::vector<lily_backward> backwards;
  std::vector<lily_deferred> layers;
  std::vector<lily_adamw_parameter> parameters;
};

}  // namespace lily::binding
