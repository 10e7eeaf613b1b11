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

// The same for a list of calls, unless it is long: what its workspace depends on. No destructor runs when a thread
// ends, which WebAssembly has none for.
template <typename List>
lily_status known_list_bytes(const lily_backend *backend, lily_status (*query)(const List *, size_t *),
                             const List &list, size_t *bytes) {
  constexpr int64_t kMost = 32;
  struct Known {
    const lily_backend *backend;
    int64_t count, tokens, rest_count;
    size_t bytes;
    struct {
      lily_problem problem;
      bool has_rows, has_scale;
    } calls[kMost];
  };
  thread_local Known known = {};
  bool is_known = known.backend == backend && known.count == list.count && known.tokens == list.tokens &&
                  known.rest_count == list.rest_count;
  for (int64_t i = 0; is_known && i < list.count; ++i) {
    const auto &call = list.calls[i];
    const auto &of = known.calls[i];
    is_known = memcmp(&of.problem, &call.problem, sizeof of.problem) == 0 &&
               of.has_rows == (call.tokens.rows != nullptr) && of.has_scale == (call.tokens.scale != nullptr);
  }
  if (is_known) {
    *bytes = known.bytes;
    return LILY_OK;
  }
  if (const lily_status status = query(&list, bytes)) return status;
  if (list.count > kMost) return LILY_OK;
  known.backend = backend;
  known.count = list.count;
  known.tokens = list.tokens;
  known.rest_count = list.rest_count;
  known.bytes = *bytes;
  for (int64_t i = 0; i < list.count; ++i) {
    const auto &call = list.calls[i];
    known.calls[i] = {call.problem, call.tokens.rows != nullptr, call.tokens.scale != nullptr};
  }
  return LILY_OK;
}

}  // namespace

lily_status Call::workspace_bytes(size_t *bytes) const {
  *bytes = 0;
  switch (operation) {
    case operation::forward: return known_bytes<&lily_backend::forward_workspace>(backend, forward.problem, bytes);
    case operation::backward: return known_bytes<&lily_backend::backward_workspace>(backend, backward.problem, bytes);
    case operation::forwardRows: return known_list_bytes(backend, backend->forward_rows_workspace, forward_rows, bytes);
    case operation::backwardRows:
      return known_list_bytes(backend, backend->backward_rows_workspace, backward_rows, bytes);
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
    case operation::forwardRows: return give(forward_rows);
    case operation::backwardRows: return give(backward_rows);
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
    case operation::forwardRows: return backend->forward_rows(&forward_rows);
    case operation::backwardRows: return backend->backward_rows(&backward_rows);
    case operation::linear: return backend->linear(&linear);
    case operation::pack: return backend->linear_pack(&linear, const_cast<void *>(linear.packed));
    case operation::attention: return lily_cpu_attention_forward(&attention);
    case operation::attentionBackward: return lily_cpu_attention_backward_run(&attention_backward);
    case operation::fold: return backend->fold(&fold);
    case operation::draw: return backend->draw(&draw);
    case operation::matmul: return lily_cpu_matmul(&matmul);
    case operation::elementwise: return lily_cpu_elementwise(&elementwise);
    default: return backend->adamw(&adamw);
  }
}

}  // namespace lily::binding
