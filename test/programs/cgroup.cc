// Prints the CPU quota that each of the given folders describes, one per line.
#include "cpu/cgroup.h"

#include <stdio.h>

int main(int count, char **roots) {
  for (int i = 1; i < count; ++i) printf("%d\n", lily::cpu::cgroup_quota(roots[i]));
}
