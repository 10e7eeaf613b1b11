// The operations of a job, on the thread that calls MPI. They consist of sends and receives between two ranks, so that
// a time-out can name the ranks that it waited for.
//
// Every operation begins with a header from each rank to each. An operation that the ranks do not agree on ends there,
// on all of them, and has written nothing.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "mpi/library.h"

namespace lily::mpi {

enum class Outcome {
  kDone,
  kDiffers,   // the ranks called different operations
  kNoWeight,  // the weights of all ranks are 0
};

// A call of an operation.
struct Call {
  std::string label;  // for time-outs, such as "averageGradients()"
  // Compared between ranks; at most kMostKeyBytes. Equal keys stand for the same operation on arrays of the same sizes
  // and types, with the same bucket_bytes, and either sums or averages.
  std::string key;
};
constexpr size_t kMostKeyBytes = 120;

struct Array {
  char *data;
  size_t bytes;
  int32_t dtype;  // lily_dtype; not used by broadcast
};

// The code with which the job is being aborted, also by another thread than that of MPI; 0: it is not.
using AbortCode = std::atomic<int>;

// After that a process ends that has called MPI_Abort, or should have.
constexpr std::chrono::seconds kAbortTime{3};

// "600 s"
std::string seconds(double number);

// Writes to stderr, whatever state the process is in, and gives the launcher the time to pass it on: that of MPICH
// loses what a rank has written just before it ends.
void write_last_line(const std::string &text);

class World {
 public:
  // `timeout` in seconds.
  World(Library &library, int rank, int size, double timeout, AbortCode &abort_code);

  Outcome barrier(const Call &call);
  // The bytes of all ranks, in order.
  Outcome gather(const Call &call, const char *data, size_t bytes, std::vector<std::vector<char>> *all);
  // From rank 0, in place. There are other ranks.
  Outcome broadcast(const Call &call, const std::vector<Array> &arrays);
  // sum_r c_r array_r in place: c_r is this rank's weight divided by the sum of all weights, or 1 if the weights are
  // NaN. At most about `bucket_bytes` are under way at once.
  Outcome reduce(const Call &call, const std::vector<Array> &arrays, double weight, size_t bucket_bytes);

  // The keys of all ranks in the last call.
  std::vector<std::string> keys() const;

  // Ends the job.
  [[noreturn]] void abort(int code);
  // The same after a line that begins with the rank.
  [[noreturn]] void abort_with(const std::string &text);

  const int rank, size;

 private:
  friend class Exchange;
  friend class Messages;
  using Clock = std::chrono::steady_clock;
  // Tags up to 32767 are allowed with every library.
  static constexpr uint64_t kTags = 1 << 14;

  struct Header {
    uint64_t bytes;
    double weight;
    char key[kMostKeyBytes];
  };

  Outcome exchange_headers(const Call &call, uint64_t bytes, double weight);
  void check(int error, const char *function);
  void send(const void *data, size_t bytes, int to, int tag, Request *request);
  void receive(void *data, size_t bytes, int from, int tag, Request *request);
  bool test(Request *request);
  void begin_wait() { waits_since_ = Clock::now(); }
  // After nothing has happened: waits a moment, by yielding at first, for `busy`. False: it has waited too long. Ends
  // the job if another thread asks for it.
  bool idle(std::chrono::milliseconds busy);
  // Ends the job.
  [[noreturn]] void time_out(std::vector<int> ranks, const char *what);
  int header_tag() const { return static_cast<int>(sequence_ % kTags) << 1; }
  // The index of a message, between two ranks in one direction.
  int data_tag(uint64_t index) const { return static_cast<int>((sequence_ + index) % kTags) << 1 | 1; }
  char *scratch(size_t bytes);

  Library &library_;
  const double timeout_;
  AbortCode &abort_code_;
  std::string label_;
  uint64_t sequence_ = 0;
  std::vector<Header> headers_;
  Clock::time_point waits_since_;
  // Kept between calls.
  std::unique_ptr<char[]> scratch_;
  size_t scratch_bytes_ = 0;
};

}  // namespace lily::mpi
