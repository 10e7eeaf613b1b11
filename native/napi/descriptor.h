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

// Of adamw: those of the call, then those of each parameter, whose state has no offsets.
namespace adamw_field {
enum Field { kBackend, kDevice, kStream, kHome, kStep, kBeta1, kBeta2, kEps, kMaxNorm, kCount };
constexpr const char *kNames[kCount] = {"backend", "device", "stream", "home", "step", "beta1", "beta2", "eps", "maxNorm"};
}  // namespace adamw_field

namespace adamw_parameter_field {
enum Field { kElements, kValueOffset, kValueDtype, kGradOffset, kGradDtype, kLr, kWeightDecay, kCount };
constexpr const char *kNames[kCount] = {"elements", "valueOffset", "valueDtype", "gradOffset", "gradDtype", "lr",
                                        "weightDecay"};
}  // namespace adamw_parameter_field
// clang-format on

}  // namespace lily::napi
