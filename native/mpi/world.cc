#include "mpi/world.h"

#include <errno.h>
#include <math.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <algorithm>
#include <thread>

#include "mpi/exchange.h"

namespace lily::mpi {
namespace {

// "rank 2", "ranks 1, 2 and 3"
std::string listed(const std::vector<int> &ranks) {
  std::string text = ranks.size() == 1 ? "rank " : "ranks ";
  for (size_t i = 0; i < ranks.size(); ++i) {
    if (i > 0) text += i + 1 == ranks.size() ? " and " : ", ";
    text += std::to_string(ranks[i]);
  }
  return text;
}

}  // namespace

std::string seconds(double number) {
  char text[32];
  snprintf(text, sizeof(text), "%g s", number);
  return text;
}

void write_last_line(const std::string &text) {
  const std::string line = text + '\n';
  for (size_t at = 0; at < line.size();) {
    const ssize_t written = write(STDERR_FILENO, line.data() + at, line.size() - at);
    if (written > 0) {
      at += static_cast<size_t>(written);
    } else if (errno == EAGAIN) {
      pollfd file = {STDERR_FILENO, POLLOUT, 0};
      if (poll(&file, 1, 1000) <= 0) break;
    } else if (errno != EINTR) {
      break;
    }
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
}

World::World(Library &library, int rank, int size, double timeout, AbortCode &abort_code)
    : rank(rank),
      size(size),
      library_(library),
      timeout_(timeout),
      abort_code_(abort_code),
      headers_(static_cast<size_t>(size)) {}

void World::abort(int code) {
  abort_code_ = code;
  // MPI_Abort waits for the launcher, which may be gone.
  std::thread([code] {
    std::this_thread::sleep_for(kAbortTime);
    _exit(code);
  }).detach();
  library_.abort(code);
  _exit(code);
}

void World::abort_with(const std::string &text) {
  write_last_line("lily-kernels: rank " + std::to_string(rank) + " of " + std::to_string(size) + ' ' + text +
                  "; the job is aborted");
  abort(1);
}

void World::check(int error, const char *function) {
  if (error == 0) return;
  abort_with("failed in " + label_ + ": " + function + " of " + library_.name + " says: " + library_.error_text(error));
}

void World::send(const void *data, size_t bytes, int to, int tag, Request *request) {
  check(library_.send(data, bytes, to, tag, request), "MPI_Isend");
}

void World::receive(void *data, size_t bytes, int from, int tag, Request *request) {
  check(library_.receive(data, bytes, from, tag, request), "MPI_Irecv");
}

bool World::test(Request *request) {
  bool is_done = false;
  check(library_.test(request, &is_done), "MPI_Test");
  return is_done;
}

bool World::idle(std::chrono::milliseconds busy) {
  if (const int code = abort_code_.load(std::memory_order_relaxed)) abort(code);
  const Clock::duration waited = Clock::now() - waits_since_;
  constexpr Clock::duration kSpin = std::chrono::microseconds(20), kLongest = std::chrono::microseconds(500);
  if (waited < kSpin) return true;
  if (waited < busy) {
    sched_yield();
  } else {
    std::this_thread::sleep_for(std::min(waited / 16, kLongest));
  }
  return std::chrono::duration<double>(waited).count() < timeout_;
}

void World::time_out(std::vector<int> ranks, const char *what) {
  std::sort(ranks.begin(), ranks.end());
  ranks.erase(std::unique(ranks.begin(), ranks.end()), ranks.end());
  abort_with("waited " + seconds(timeout_) + " in " + label_ + " for " + listed(ranks) + ", which " + what);
}

char *World::scratch(size_t bytes) {
  if (bytes > scratch_bytes_) {
    scratch_ = nullptr;
    // Uninitialised: what is not used takes no memory.
    scratch_.reset(new char[bytes]);
    scratch_bytes_ = bytes;
  }
  return scratch_.get();
}

Outcome World::exchange_headers(const Call &call, uint64_t bytes, double weight) {
  label_ = call.label;
  ++sequence_;
  Header &own = headers_[static_cast<size_t>(rank)];
  own = {bytes, weight, {}};
  memcpy(own.key, call.key.data(), std::min(call.key.size(), kMostKeyBytes));
  begin_wait();
  struct Pending {
    Request request;
    int peer;
  };
  std::vector<Pending> pending;
  pending.reserve(2 * static_cast<size_t>(size));
  for (int step = 1; step < size; ++step) {
    const int from = (rank + size - step) % size;
    pending.push_back({0, from});
    receive(&headers_[static_cast<size_t>(from)], sizeof(Header), from, header_tag(), &pending.back().request);
  }
  for (int step = 1; step < size; ++step) {
    const int to = (rank + step) % size;
    pending.push_back({0, to});
    send(&own, sizeof(Header), to, header_tag(), &pending.back().request);
  }
  // Other ranks may still compute.
  constexpr std::chrono::milliseconds kBusy{1};
  while (true) {
    const auto is_done = [this](Pending &each) { return test(&each.request); };
    const auto left = std::remove_if(pending.begin(), pending.end(), is_done);
    const bool has_progress = left != pending.end();
    pending.erase(left, pending.end());
    if (pending.empty()) break;
    if (has_progress || idle(kBusy)) continue;
    std::vector<int> ranks;
    for (const Pending &each : pending) ranks.push_back(each.peer);
    time_out(ranks, "did not come");
  }
  for (const Header &header : headers_) {
    if (memcmp(header.key, own.key, kMostKeyBytes) != 0) return Outcome::kDiffers;
  }
  return Outcome::kDone;
}

std::vector<std::string> World::keys() const {
  std::vector<std::string> all;
  for (const Header &header : headers_) all.emplace_back(header.key, strnlen(header.key, kMostKeyBytes));
  return all;
}

Outcome World::barrier(const Call &call) { return exchange_headers(call, 0, 0); }

Outcome World::gather(const Call &call, const char *data, size_t bytes, std::vector<std::vector<char>> *all) {
  const Outcome outcome = exchange_headers(call, bytes, 0);
  if (outcome != Outcome::kDone) return outcome;
  Messages messages(*this);
  all->resize(static_cast<size_t>(size));
  for (int from = 0; from < size; ++from) {
    std::vector<char> &part = (*all)[static_cast<size_t>(from)];
    if (from == rank) {
      part.assign(data, data + bytes);
      continue;
    }
    part.resize(headers_[static_cast<size_t>(from)].bytes);
    for (size_t at = 0, index = 0; at < part.size(); at += kMostBytes, ++index) {
      messages.receive(part.data() + at, std::min(kMostBytes, part.size() - at), from, data_tag(index), 0);
    }
  }
  for (int step = 1; step < size; ++step) {
    for (size_t at = 0, index = 0; at < bytes; at += kMostBytes, ++index) {
      messages.send(data + at, std::min(kMostBytes, bytes - at), (rank + step) % size, data_tag(index), 0);
    }
  }
  while (!messages.empty()) messages.advance([](size_t) {});
  return outcome;
}

Outcome World::broadcast(const Call &call, const std::vector<Array> &arrays) {
  const Outcome outcome = exchange_headers(call, 0, 0);
  if (outcome != Outcome::kDone) return outcome;
  constexpr size_t kUnderWay = size_t{32} << 20;
  Exchange(*this, arrays, kUnderWay).broadcast();
  return outcome;
}

Outcome World::reduce(const Call &call, const std::vector<Array> &arrays, double weight, size_t bucket_bytes) {
  const Outcome outcome = exchange_headers(call, 0, weight);
  if (outcome != Outcome::kDone) return outcome;
  double total = 0;
  for (const Header &header : headers_) total += header.weight;
  if (total == 0) return Outcome::kNoWeight;
  const bool is_sum = isnan(weight);
  std::vector<float> coefficients;
  for (const Header &header : headers_) coefficients.push_back(is_sum ? 1 : static_cast<float>(header.weight / total));
  Exchange(*this, arrays, bucket_bytes).reduce(coefficients);
  return outcome;
}

}  // namespace lily::mpi
