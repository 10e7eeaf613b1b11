// Prints the CPU quota that each of the given folders describes, one per line.
#include "system/linux/cgroup.h"

#include <stdio.h>

int main(int count, char **roots) {
  for (int i = 1; i < count; ++i) printf("%d\n", lily::system::cgroup_quota(roots[i]));
}
