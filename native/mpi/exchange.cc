#include "mpi/exchange.h"

#include <string.h>

#include <algorithm>

#include "lily/backend.h"
#include "mpi/sum.h"

namespace lily::mpi {
namespace {

// Between two processes of a machine, smaller pieces take longer because there are more messages, and larger ones
// because no rank adds while others transfer.
constexpr size_t kPieceBytes = size_t{512} << 10;
constexpr size_t kLeastPieceBytes = size_t{4} << 10;
// Per rank.
constexpr size_t kPiecesUnderWay = 4;
constexpr size_t kAlignment = 64;

size_t divide_up(size_t number, size_t by) { return (number + by - 1) / by; }
size_t round_up(size_t number) { return divide_up(number, kAlignment) * kAlignment; }

}  // namespace

void Messages::send(const void *data, size_t bytes, int to, int tag, size_t owner) {
  pending_.push_back({0, to, owner});
  world_.send(data, bytes, to, tag, &pending_.back().request);
}

void Messages::receive(void *data, size_t bytes, int from, int tag, size_t owner) {
  pending_.push_back({0, from, owner});
  world_.receive(data, bytes, from, tag, &pending_.back().request);
}

void Messages::idle() {
  // Longer than a message takes: the library transfers while it is asked.
  constexpr std::chrono::milliseconds kBusy{50};
  if (world_.idle(kBusy)) return;
  std::vector<int> ranks;
  for (const Pending &each : pending_) ranks.push_back(each.peer);
  world_.time_out(ranks, "did not answer");
}

Exchange::Exchange(World &world, const std::vector<Array> &arrays, size_t bucket_bytes)
    : world_(world), arrays_(arrays), bucket_bytes_(bucket_bytes), messages_(world) {}

void Exchange::broadcast() { run(); }

void Exchange::reduce(const std::vector<float> &coefficients) {
  coefficients_ = &coefficients;
  run();
}

// Arrays from `alone` bytes on are pieces, or are cut into pieces of the same size: these need not be packed. The
// others are put together, dtype by dtype.
void Exchange::cut(size_t piece_bytes, size_t alone) {
  for (int32_t dtype = 0; dtype <= 2; ++dtype) {
    std::vector<const Array *> small;
    for (const Array &array : arrays_) {
      if (array.dtype != dtype) continue;
      if (array.bytes < alone) {
        small.push_back(&array);
        continue;
      }
      const size_t step = round_up(divide_up(array.bytes, divide_up(array.bytes, piece_bytes)));
      for (size_t at = 0; at < array.bytes; at += step) {
        const size_t bytes = std::min(step, array.bytes - at);
        pieces_.push_back({0, dtype, bytes, parts_.size(), 1});
        parts_.push_back({array.data + at, bytes});
      }
    }
    Piece piece;
    for (const Array *array : small) {
      if (piece.parts > 0 && piece.bytes + array->bytes > piece_bytes) {
        pieces_.push_back(piece);
        piece = {};
      }
      if (piece.parts == 0) piece = {0, dtype, 0, parts_.size(), 0};
      parts_.push_back({array->data, array->bytes});
      piece.bytes += array->bytes;
      ++piece.parts;
    }
    if (piece.parts > 0) pieces_.push_back(piece);
  }
}

// Each piece belongs to the rank that has the fewest bytes so far. In a broadcast rank 0 owns none, because it has all.
void Exchange::assign_owners() {
  std::vector<size_t> bytes(static_cast<size_t>(world_.size));
  const auto first = bytes.begin() + (coefficients_ == nullptr ? 1 : 0);
  for (Piece &piece : pieces_) {
    const auto least = std::min_element(first, bytes.end());
    *least += piece.bytes;
    piece.owner = static_cast<int>(least - bytes.begin());
  }
}

void Exchange::run() {
  const size_t size = static_cast<size_t>(world_.size), owners = coefficients_ == nullptr ? size - 1 : size;
  size_t total = 0;
  for (const Array &array : arrays_) total += array.bytes;
  const size_t part = std::min({divide_up(total, owners), kPieceBytes, bucket_bytes_ / owners});
  const size_t piece_bytes = round_up(std::max(part, kLeastPieceBytes));
  cut(piece_bytes, piece_bytes / 4);
  assign_owners();

  const size_t most = std::clamp(bucket_bytes_ / piece_bytes, size_t{1}, kPiecesUnderWay * owners);
  active_.resize(most);
  const size_t collections = divide_up(most, owners), collection_bytes = (size - 1) * piece_bytes;
  char *block = world_.scratch(kAlignment + most * piece_bytes + collections * collection_bytes);
  block += -reinterpret_cast<uintptr_t>(block) % kAlignment;
  for (Active &active : active_) {
    active.packed = block;
    block += piece_bytes;
  }
  for (size_t i = 0; i < collections; ++i, block += collection_bytes) free_collections_.push_back(block);

  // Pieces begin in the same order on all ranks. The first one that is not finished everywhere is under way everywhere,
  // so that there is always one that advances.
  for (size_t next = 0; finished_ < pieces_.size();) {
    while (next < pieces_.size() && start(next)) ++next;
    messages_.advance([this](size_t active) { advance(active); });
  }
}

// False: too much is under way.
bool Exchange::start(size_t index) {
  const Piece &piece = pieces_[index];
  const bool is_owner = piece.owner == world_.rank;
  const auto free =
      std::find_if(active_.begin(), active_.end(), [](const Active &each) { return each.state == State::kFree; });
  if (free == active_.end() || (is_owner && free_collections_.empty())) return false;
  Active &active = *free;
  const size_t self = static_cast<size_t>(free - active_.begin());
  active.piece = index;
  active.data = piece.parts == 1 ? parts_[piece.first_part].data : active.packed;
  if (active.data == active.packed && contributes(world_.rank)) pack(piece, active.packed);
  active.pending = 1;
  const int tag = world_.data_tag(index);
  if (!is_owner && contributes(world_.rank)) {
    active.state = State::kContributing;
    messages_.send(active.data, piece.bytes, piece.owner, tag, self);
  } else if (!is_owner) {
    active.state = State::kReceiving;
    messages_.receive(active.data, piece.bytes, piece.owner, tag, self);
  } else if (coefficients_ == nullptr) {
    active.state = State::kCollecting;
    messages_.receive(active.data, piece.bytes, 0, tag, self);
  } else {
    active.state = State::kCollecting;
    active.collected = free_collections_.back();
    free_collections_.pop_back();
    active.pending = world_.size - 1;
    char *to = active.collected;
    for (int from = 0; from < world_.size; ++from) {
      if (from == world_.rank) continue;
      messages_.receive(to, piece.bytes, from, tag, self);
      to += round_up(piece.bytes);
    }
  }
  return true;
}

// One message of a piece is done.
void Exchange::advance(size_t self) {
  Active &active = active_[self];
  if (--active.pending > 0) return;
  const Piece &piece = pieces_[active.piece];
  const int tag = world_.data_tag(active.piece);
  if (active.state == State::kCollecting) {
    if (coefficients_ != nullptr) {
      add_up(active);
      free_collections_.push_back(active.collected);
    }
    active.state = State::kSharing;
    for (int step = 1; step < world_.size; ++step) {
      const int to = (world_.rank + step) % world_.size;
      if (!receives(to)) continue;
      ++active.pending;
      messages_.send(active.data, piece.bytes, to, tag, self);
    }
    if (active.pending > 0) return;
  } else if (active.state == State::kContributing && receives(world_.rank)) {
    // Not before: the result has the place of the contribution.
    active.state = State::kReceiving;
    active.pending = 1;
    messages_.receive(active.data, piece.bytes, piece.owner, tag, self);
    return;
  }
  if (active.data == active.packed && receives(world_.rank)) unpack(piece, active.packed);
  active.state = State::kFree;
  ++finished_;
}

void Exchange::add_up(const Active &active) const {
  const Piece &piece = pieces_[active.piece];
  std::vector<Term> terms;
  const char *collected = active.collected;
  for (int rank = 0; rank < world_.size; ++rank) {
    const char *const data = rank == world_.rank ? active.data : collected;
    if (rank != world_.rank) collected += round_up(piece.bytes);
    // The gradients of a rank without a share may be anything: a mean over no tokens is not a number.
    const float coefficient = (*coefficients_)[static_cast<size_t>(rank)];
    if (coefficient != 0) terms.push_back({data, coefficient});
  }
  const size_t element_bytes = piece.dtype == LILY_FLOAT32 ? 4 : 2;
  sum(piece.dtype, static_cast<int64_t>(piece.bytes / element_bytes), terms.data(), static_cast<int64_t>(terms.size()),
      active.data);
}

void Exchange::pack(const Piece &piece, char *to) const {
  for (size_t i = piece.first_part; i < piece.first_part + piece.parts; ++i) {
    memcpy(to, parts_[i].data, parts_[i].bytes);
    to += parts_[i].bytes;
  }
}

void Exchange::unpack(const Piece &piece, const char *from) const {
  for (size_t i = piece.first_part; i < piece.first_part + piece.parts; ++i) {
    memcpy(parts_[i].data, from, parts_[i].bytes);
    from += parts_[i].bytes;
  }
}

}  // namespace lily::mpi
