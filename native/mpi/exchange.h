// How arrays are broadcast and reduced. They are cut into pieces, and each piece has an owner: the owner receives it
// from all ranks (from rank 0 for a broadcast), adds, and sends the result to all. Each rank owns about the same number
// of bytes, so that it sends and receives each byte about twice, however many ranks there are. Several pieces are under
// way at once: what one rank adds, others transfer.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <vector>

#include "mpi/world.h"

namespace lily::mpi {

// Sends and receives that have begun.
class Messages {
 public:
  explicit Messages(World &world) : world_(world) { world_.begin_wait(); }

  // `owner` is given back when the message is done.
  void send(const void *data, size_t bytes, int to, int tag, size_t owner);
  void receive(void *data, size_t bytes, int from, int tag, size_t owner);
  bool empty() const { return pending_.empty(); }

  // Asks for each message whether it is done, and calls done(owner) if so, which may begin more. If none is, waits a
  // moment, and ends the job after the time-out.
  template <typename Done>
  void advance(Done done) {
    bool has_progress = false;
    for (size_t i = 0; i < pending_.size();) {
      if (!world_.test(&pending_[i].request)) {
        ++i;
        continue;
      }
      const size_t owner = pending_[i].owner;
      pending_[i] = pending_.back();
      pending_.pop_back();
      has_progress = true;
      done(owner);
    }
    if (has_progress)
      world_.begin_wait();
    else
      idle();
  }

 private:
  struct Pending {
    Request request;
    int peer;
    size_t owner;
  };

  void idle();

  World &world_;
  std::vector<Pending> pending_;
};

class Exchange {
 public:
  Exchange(World &world, const std::vector<Array> &arrays, size_t bucket_bytes);

  void broadcast();
  void reduce(const std::vector<float> &coefficients);

 private:
  struct Piece {
    int owner = 0;
    int32_t dtype = 0;
    size_t bytes = 0;
    size_t first_part = 0, parts = 0;
  };
  // A part of an array.
  struct Part {
    char *data;
    size_t bytes;
  };
  enum class State { kFree, kCollecting, kContributing, kReceiving, kSharing };
  // A piece that is under way.
  struct Active {
    State state = State::kFree;
    size_t piece = 0;
    int pending = 0;            // messages
    char *packed = nullptr;     // memory for a piece of several parts
    char *data = nullptr;       // the piece: in its array, or packed
    char *collected = nullptr;  // of the owner: what the other ranks sent, one after the other
  };

  void cut(size_t piece_bytes, size_t alone);
  void assign_owners();
  void run();
  bool start(size_t piece);
  void advance(size_t active);
  void add_up(const Active &active) const;
  bool contributes(int rank) const { return coefficients_ != nullptr || rank == 0; }
  bool receives(int rank) const { return coefficients_ != nullptr || rank != 0; }
  void pack(const Piece &piece, char *to) const;
  void unpack(const Piece &piece, const char *from) const;

  World &world_;
  const std::vector<Array> &arrays_;
  const size_t bucket_bytes_;
  const std::vector<float> *coefficients_ = nullptr;  // null: broadcast
  std::vector<Part> parts_;
  std::vector<Piece> pieces_;
  std::vector<Active> active_;
  std::vector<char *> free_collections_;
  size_t finished_ = 0;
  Messages messages_;
};

}  // namespace lily::mpi
