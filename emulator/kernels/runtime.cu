// The functions of the runtime, one case per area: `runtime CASE`.
#include "runtime_capture.cuh"
#include "runtime_contexts.cuh"
#include "runtime_order.cuh"

int main(int count, char **arguments) {
  static const Case cases[] = {
      {"devices", runtime_devices}, {"attributes", runtime_attributes},
      {"errors", runtime_errors},   {"memory", runtime_memory},
      {"capture", runtime_capture}, {"graph", runtime_graph},
      {"legacy", runtime_legacy},   {"host_functions", runtime_host_functions},
      {"polling", runtime_polling}, {"threads", runtime_threads},
      {"ordered", runtime_ordered}, {"contexts", runtime_contexts},
  };
  return run_case(count, arguments, cases);
}
