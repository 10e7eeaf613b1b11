// Small kernels with known results.
#include "layer_norm.cuh"
#include "reduction.cuh"
#include "softmax.cuh"
#include "spaces.cuh"
#include "streams.cuh"

int main(int count, char **arguments) {
  static const Case cases[] = {{"reduction", test_reduction},
                               {"softmax", test_softmax},
                               {"layer_norm", test_layer_norm},
                               {"streams", test_streams},
                               {"spaces", test_spaces}};
  return run_case(count, arguments, cases);
}
