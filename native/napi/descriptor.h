// The order of the numbers in a call's descriptor. JavaScript reads the names from here (`fields`, `slotFields`,
// `forwardSlots`, `backwardSlots`), so this is the only place that knows it.
#pragma once

namespace lily::napi {

// clang-format off
// `stream` is that of the call, `home` the one of the package that its workspace belongs to.
enum Field {
  kBackend, kDevice, kStream, kHome, kRouting, kPool, kActivation, kPrecision, kActivationDtype, kParameterDtype,
  kTokens, kDIn, kDOut, kRank, kExperts, kGroups, kScaling,
  kFieldCount
};
constexpr const char *kFieldNames[kFieldCount] = {
    "backend", "device", "stream", "home", "routing", "pool", "activation", "precision", "activationDtype",
    "parameterDtype",
    "tokens", "dIn", "dOut", "rank", "experts", "groups", "scaling"};

enum SlotField { kByteOffset, kPitch, kDtype, kAccumulate, kSlotFieldCount };
constexpr const char *kSlotFieldNames[kSlotFieldCount] = {"byteOffset", "pitch", "dtype", "accumulate"};

namespace forward_slot {
enum Slot { kX, kA, kRouter, kB, kY, kHidden, kProbabilities, kWeights, kMask, kSequenceOffsets, kCount };
constexpr const char *kNames[kCount] = {"x", "a", "router", "b", "y", "hidden", "probabilities", "weights", "mask",
                                        "sequenceOffsets"};
}  // namespace forward_slot

namespace backward_slot {
enum Slot {
  kDy, kX, kA, kRouter, kB, kHidden, kProbabilities, kWeights, kMask, kSequenceOffsets,
  kDx, kDa, kDRouter, kDb, kDeferredDb,
  kCount
};
constexpr const char *kNames[kCount] = {"dy", "x", "a", "router", "b", "hidden", "probabilities", "weights", "mask",
                                        "sequenceOffsets", "dx", "da", "dRouter", "db", "deferredDb"};
}  // namespace backward_slot
// clang-format on

}  // namespace lily::napi
