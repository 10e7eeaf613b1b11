#include "binding/call.h"

#include <string.h>

#include <type_traits>

namespace lily::binding {
namespace {

// The bytes of the workspace of the last call on this thread. They depend on the problem alone, and finding them takes
// a plan of the call; training and serving repeat the same problem.
template <auto Query, typename Problem>
lily_status known_bytes(const lily_backend *backend, const Problem &problem, size_t *bytes) {
  struct Known {
    const lily_backend *backend;
    Problem problem;
    size_t bytes;
  };
  thread_local Known known = {};
  if (known.backend != backend || memcmp(&known.problem, &problem, sizeof problem) != 0) {
    lily_status status;
    if constexpr (std::is_member_pointer_v<decltype(Query)>) {
      status = (backend->*Query)(&problem, bytes);
    } else {
      status = Query(&problem, bytes);
    }
    if (status != LILY_OK) return status;
    known = {backend, problem, *bytes};
  }
  *bytes = known.bytes;
  return LILY_OK;
}

}  // namespace

lily_status Call::workspace_bytes(size_t *bytes) const {
  *bytes = 0;
  switch (operation) {
    case operation::forward: return known_bytes<&lily_backend::forward_workspace>(backend, forward.problem, bytes);
    case operation::backward: return known_bytes<&lily_backend::backward_workspace>(backend, backward.problem, bytes);
    case operation::linear: return known_bytes<&lily_backend::linear_workspace>(backend, linear.problem, bytes);
    case operation::attention: return lily_cpu_attention_workspace(&attention.problem, bytes);
    case operation::attentionBackward: return lily_cpu_attention_backward_workspace(&attention_backward.problem, bytes);
    case operation::adamw: return backend->adamw_workspace(&adamw, bytes);
    case operation::matmul: return known_bytes<lily_cpu_matmul_workspace>(backend, matmul.problem, bytes);
    default: return LILY_OK;
  }
}

void Call::give_workspace(void *workspace, size_t bytes) {
  const auto give = [&](auto &call) {
    call.workspace = workspace;
    call.workspace_bytes = bytes;
  };
  switch (operation) {
    case operation::forward: return give(forward);
    case operation::backward: return give(backward);
    case operation::linear: return give(linear);
    case operation::attention: return give(attention);
    case operation::attentionBackward: return give(attention_backward);
    case operation::adamw: return give(adamw);
    case operation::matmul: return give(matmul);
    default: return;
  }
}

lily_status Call::run() const {
  switch (operation) {
    case operation::forward: return backend->forward(&forward);
    case operation::backward: return backend->backward(&backward);
    case operation::linear: return backend->linear(&linear);
    case operation::pack: return backend->linear_pack(&linear, const_cast<void *>(linear.packed));
    case operation::attention: return lily_cpu_attention_forward(&attention);
    case operation::attentionBackward: return lily_cpu_attention_backward_run(&attention_backward);
    case operation::fold: return backend->fold(&fold);
    case operation::matmul: return lily_cpu_matmul(&matmul);
    case operation::elementwise: return lily_cpu_elementwise(&elementwise);
    default: return backend->adamw(&adamw);
  }
}

}  // namespace lily::binding
