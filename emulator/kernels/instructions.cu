// Runs single instructions on many values: `instructions CASE --print`, for scripts/compare-emulator.sh. A case does
// not check its results; emulator/tests and the comparison with a GPU do.
#include "instructions_warpgroup.cuh"

int main(int count, char **arguments) {
  static const Case cases[] = {{"integers", test_integers},
                               {"floats", test_floats},
                               {"conversions", test_conversions},
                               {"warps", test_warps},
                               {"approximations", test_approximations},
                               {"ampere", test_ampere},
                               {"hopper", test_hopper},
                               {"movement", test_movement},
                               {"products", test_products},
                               {"warpgroups", test_warpgroups}};
  return run_case(count, arguments, cases);
}
