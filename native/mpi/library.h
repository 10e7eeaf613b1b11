// A library of MPI, opened at run time: the functions that the package calls, with the handles of Open MPI, of MPICH
// and its derivatives, or of the standard ABI of MPI 5.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <string>
#include <vector>

namespace lily::mpi {

// A send or a receive that has begun; the bits of an MPI_Request.
using Request = uintptr_t;

// Once it is initialised, one thread calls everything else. The functions return an error code of MPI: 0 is success.
class Library {
 public:
  virtual ~Library() = default;

  // What MPI_Get_library_version says, first line.
  std::string version;
  // "Open MPI", "MPICH" or "MPI ABI": whose handles it has.
  const char *implementation = nullptr;
  // As it was opened.
  std::string name;

  // Asks for MPI_THREAD_SERIALIZED; `is_serialized` tells whether that was granted. Errors are returned from then on.
  virtual int initialise(bool *is_serialized) = 0;
  virtual int finalize() = 0;
  virtual int rank_and_size(int *rank, int *size) = 0;
  virtual int send(const void *data, size_t bytes, int to, int tag, Request *request) = 0;
  virtual int receive(void *data, size_t bytes, int from, int tag, Request *request) = 0;
  virtual int test(Request *request, bool *is_done) = 0;
  // Ends all processes of the job, this one as a rule before it returns.
  virtual void abort(int code) = 0;
  virtual std::string error_text(int code) = 0;
};

// The most bytes of one message.
constexpr size_t kMostBytes = size_t{1} << 30;

// Opens the first candidate that is a library of MPI. If none is, returns null, and `reasons` has one line for each.
// The library stays open.
Library *open_library(const std::vector<std::string> &candidates, std::vector<std::string> *reasons);

}  // namespace lily::mpi
