// Planted mistakes, each with a correct variant: `planted CASE bug|clean`.
#include "planted_dependent.cuh"
#include "planted_host.cuh"
#include "planted_memory.cuh"
#include "planted_order.cuh"
#include "planted_warpgroup.cuh"

struct Planted {
  const char *name;
  bool (*bug)(), (*clean)();
};

#define PLANTED(name) {#name, run_##name<true>, run_##name<false>}

int main(int count, char **arguments) {
  static const Planted cases[] = {PLANTED(global_bounds),
                                  PLANTED(shared_bounds),
                                  PLANTED(local_bounds),
                                  PLANTED(parameter_bounds),
                                  PLANTED(misaligned),
                                  PLANTED(uninitialised_shared),
                                  PLANTED(uninitialised_global),
                                  PLANTED(use_after_free),
                                  PLANTED(shared_race),
                                  PLANTED(global_race),
                                  PLANTED(early_read),
                                  PLANTED(divergent_operation),
                                  PLANTED(absent_lane),
                                  PLANTED(divergent_barrier),
                                  PLANTED(deadlock),
                                  PLANTED(early_product),
                                  PLANTED(product_fence),
                                  PLANTED(product_proxy),
                                  PLANTED(product_overwrite),
                                  PLANTED(product_divergence),
                                  PLANTED(dependent_read),
                                  PLANTED(dependent_write),
                                  PLANTED(dependent_exit),
                                  PLANTED(dependent_barrier),
                                  PLANTED(dependent_chain),
                                  PLANTED(dependent_graph),
                                  PLANTED(missing_event),
                                  PLANTED(unordered_copy),
                                  PLANTED(unordered_graph),
                                  PLANTED(early_free),
                                  PLANTED(destroyed_context),
                                  PLANTED(leak),
                                  PLANTED(leak_pinned),
                                  PLANTED(leak_stream),
                                  PLANTED(leak_event),
                                  PLANTED(leak_graph)};
  for (const Planted &each : cases) {
    if (count != 3 || std::strcmp(arguments[1], each.name) != 0) continue;
    const bool right = std::strcmp(arguments[2], "bug") == 0 ? each.bug() : each.clean();
    std::printf("%s %s\n", right ? "right" : "WRONG", each.name);
    return right ? 0 : 1;
  }
  std::printf("usage: %s CASE bug|clean\n", arguments[0]);
  return 2;
}
