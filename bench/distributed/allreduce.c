/*
 * What `bench:distributed` compares with: MPI_Allreduce in place on an array of float32, and a factor of 1/n, which
 * makes the sum an average. mpirun starts it; protocol.ts says what rank 0 reads from stdin and writes to stdout.
 */
#include <mpi.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { END, OPEN, SAMPLE };

typedef struct {
  long long kind, bytes, warmup, calls;
} Request;

/* JSON.stringify writes the fields in the order of protocol.ts. */
static Request read_request(void) {
  char line[256];
  Request request = {END, 0, 0, 0};
  if (fgets(line, sizeof line, stdin) == NULL) return request;
  if (sscanf(line, "{\"request\":\"open\",\"bytes\":%lld", &request.bytes) == 1) {
    request.kind = OPEN;
  } else if (sscanf(line, "{\"request\":\"sample\",\"way\":\"MPI_Allreduce\",\"warmup\":%lld,\"calls\":%lld",
                    &request.warmup, &request.calls) == 2) {
    request.kind = SAMPLE;
  } else {
    fprintf(stderr, "unknown request: %s", line);
    MPI_Abort(MPI_COMM_WORLD, 1);
  }
  return request;
}

/* Other ranks sleep until it comes: one that waits in MPI takes the processor from the other contender. */
static Request next_request(int rank, int size) {
  const int words = sizeof(Request) / sizeof(long long);
  Request request;
  if (rank == 0) {
    request = read_request();
    for (int to = 1; to < size; to++) MPI_Send(&request, words, MPI_LONG_LONG, to, 0, MPI_COMM_WORLD);
    return request;
  }
  const struct timespec pause = {0, 500000};
  for (;;) {
    int came = 0;
    MPI_Iprobe(0, 0, MPI_COMM_WORLD, &came, MPI_STATUS_IGNORE);
    if (came) break;
    nanosleep(&pause, NULL);
  }
  MPI_Recv(&request, words, MPI_LONG_LONG, 0, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
  return request;
}

static void average(float *gradients, int count, int size) {
  MPI_Allreduce(MPI_IN_PLACE, gradients, count, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
  const float factor = 1.0f / (float)size;
  for (int i = 0; i < count; i++) gradients[i] *= factor;
}

static uint32_t hash_of(const float *values, int count) {
  uint32_t hash = 2166136261u;
  for (int i = 0; i < count; i++) {
    uint32_t bits;
    memcpy(&bits, &values[i], sizeof bits);
    hash = (hash ^ bits) * 16777619u;
  }
  return hash;
}

int main(int argc, char **argv) {
  MPI_Init(&argc, &argv);
  int rank, size;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  if (rank == 0) puts("{\"versions\":{}}");
  float *gradients = NULL;
  int count = 0;
  for (;;) {
    fflush(stdout);
    const Request request = next_request(rank, size);
    if (request.kind == END) break;
    if (request.kind == OPEN) {
      count = (int)(request.bytes / (long long)sizeof(float));
      gradients = realloc(gradients, (size_t)request.bytes);
      if (gradients == NULL) MPI_Abort(MPI_COMM_WORLD, 1);
      for (int i = 0; i < count; i++) {
        gradients[i] = (float)((i * 7919LL + rank * 104729LL) % 211) / 105.0f - 1.0f;
      }
      average(gradients, count, size);
      if (rank == 0) printf("{\"hashes\":{\"MPI_Allreduce\":%u}}\n", hash_of(gradients, count));
      continue;
    }
    for (long long call = 0; call < request.warmup; call++) average(gradients, count, size);
    MPI_Barrier(MPI_COMM_WORLD);
    const double begin = MPI_Wtime();
    for (long long call = 0; call < request.calls; call++) average(gradients, count, size);
    const double seconds = MPI_Wtime() - begin;
    if (rank == 0) printf("{\"seconds\":%.9g}\n", seconds / (double)request.calls);
  }
  free(gradients);
  MPI_Finalize();
  return 0;
}
