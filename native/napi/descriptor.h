// The numbers and operands of a call: what JavaScript passes to the addon, in which order. This file has the only list
// of them. The preprocessor makes the enumerators and the names from it, and scripts/generate-descriptor.js writes the
// positions for lib/ to lib/binding/descriptor.ts: run that script after a change here. lib/ compares the names when it
// loads the addon.
#pragma once

namespace lily::napi {

// clang-format off

// Numbers of a forward or backward call. The call runs in `stream`; its workspace belongs to `memoryStream`, a stream
// of the package.
#define LILY_CALL_FIELDS(X)              \
  X(kBackend, backend)                   \
  X(kDevice, device)                     \
  X(kStream, stream)                     \
  X(kMemoryStream, memoryStream)         \
  X(kRouting, routing)                   \
  X(kPool, pool)                         \
  X(kActivation, activation)             \
  X(kPrecision, precision)               \
  X(kActivationDtype, activationDtype)   \
  X(kParameterDtype, parameterDtype)     \
  X(kTokens, tokens)                     \
  X(kDIn, dIn)                           \
  X(kDOut, dOut)                         \
  X(kRank, rank)                         \
  X(kExperts, experts)                   \
  X(kGroups, groups)                     \
  X(kScaling, scaling)

// Numbers of one operand. They follow the call's numbers, slot by slot.
#define LILY_SLOT_FIELDS(X)    \
  X(kByteOffset, byteOffset)   \
  X(kPitch, pitch)             \
  X(kDtype, dtype)             \
  X(kAccumulate, accumulate)

// Operands of a forward call.
#define LILY_FORWARD_SLOTS(X)            \
  X(kX, x)                               \
  X(kA, a)                               \
  X(kRouter, router)                     \
  X(kB, b)                               \
  X(kY, y)                               \
  X(kHidden, hidden)                     \
  X(kProbabilities, probabilities)       \
  X(kWeights, weights)                   \
  X(kMask, mask)                         \
  X(kSequenceOffsets, sequenceOffsets)   \
  X(kUncheckedOffsets, uncheckedOffsets)

// Operands of a backward call.
#define LILY_BACKWARD_SLOTS(X)           \
  X(kDy, dy)                             \
  X(kX, x)                               \
  X(kA, a)                               \
  X(kRouter, router)                     \
  X(kB, b)                               \
  X(kHidden, hidden)                     \
  X(kProbabilities, probabilities)       \
  X(kWeights, weights)                   \
  X(kMask, mask)                         \
  X(kSequenceOffsets, sequenceOffsets)   \
  X(kDx, dx)                             \
  X(kDa, da)                             \
  X(kDRouter, dRouter)                   \
  X(kDb, db)                             \
  X(kDeferredDb, deferredDb)

// Numbers of a fold. The slot numbers of db follow, then the numbers of each layer.
#define LILY_FOLD_FIELDS(X)   \
  X(kBackend, backend)        \
  X(kDevice, device)          \
  X(kStream, stream)          \
  X(kDOut, dOut)              \
  X(kRank, rank)              \
  X(kExperts, experts)

// Numbers of the deferred gradient of one layer: its number of r x d_out matrices, and the offset in bytes of its
// weights.
#define LILY_FOLD_LAYER_FIELDS(X)    \
  X(kPartials, partials)             \
  X(kWeightsOffset, weightsOffset)

// Numbers of a call of a frozen linear layer, or of the packing of its weight.
#define LILY_LINEAR_FIELDS(X)            \
  X(kBackend, backend)                   \
  X(kDevice, device)                     \
  X(kStream, stream)                     \
  X(kMemoryStream, memoryStream)         \
  X(kTransposed, transposed)             \
  X(kPrecision, precision)               \
  X(kActivationDtype, activationDtype)   \
  X(kParameterDtype, parameterDtype)     \
  X(kTokens, tokens)                     \
  X(kDIn, dIn)                           \
  X(kDOut, dOut)

// Operands of such a call. x is dy, and y is dx, if it is transposed. Of packed only the offset counts.
#define LILY_LINEAR_SLOTS(X)   \
  X(kX, x)                     \
  X(kWeight, weight)           \
  X(kPacked, packed)           \
  X(kBias, bias)               \
  X(kY, y)

// Numbers of a step of AdamW. The numbers of each parameter follow.
#define LILY_ADAMW_FIELDS(X)       \
  X(kBackend, backend)             \
  X(kDevice, device)               \
  X(kStream, stream)               \
  X(kMemoryStream, memoryStream)   \
  X(kStep, step)                   \
  X(kBeta1, beta1)                 \
  X(kBeta2, beta2)                 \
  X(kEps, eps)                     \
  X(kMaxNorm, maxNorm)

// Numbers of one parameter. Its moments begin at the first byte of their memory and have no offset.
#define LILY_ADAMW_PARAMETER_FIELDS(X)   \
  X(kElements, elements)                 \
  X(kValueOffset, valueOffset)           \
  X(kValueDtype, valueDtype)             \
  X(kGradOffset, gradOffset)             \
  X(kGradDtype, gradDtype)               \
  X(kLr, lr)                             \
  X(kWeightDecay, weightDecay)

// Every list with its namespace here and its name in JavaScript.
#define LILY_DESCRIPTOR_LISTS(X)                                                    \
  X(call_field, callFields, LILY_CALL_FIELDS)                                       \
  X(slot_field, slotFields, LILY_SLOT_FIELDS)                                       \
  X(forward_slot, forwardSlots, LILY_FORWARD_SLOTS)                                 \
  X(backward_slot, backwardSlots, LILY_BACKWARD_SLOTS)                              \
  X(fold_field, foldFields, LILY_FOLD_FIELDS)                                       \
  X(fold_layer_field, foldLayerFields, LILY_FOLD_LAYER_FIELDS)                      \
  X(linear_field, linearFields, LILY_LINEAR_FIELDS)                                 \
  X(linear_slot, linearSlots, LILY_LINEAR_SLOTS)                                    \
  X(adamw_field, adamwFields, LILY_ADAMW_FIELDS)                                    \
  X(adamw_parameter_field, adamwParameterFields, LILY_ADAMW_PARAMETER_FIELDS)

#define LILY_ENUMERATOR(enumerator, name) enumerator,
#define LILY_NAME(enumerator, name) #name,
#define LILY_DEFINE_LIST(space, javascript_name, list)          \
  namespace space {                                             \
  enum Position { list(LILY_ENUMERATOR) kEnd };                 \
  constexpr int kCount = kEnd;                                  \
  constexpr const char *kNames[kCount] = {list(LILY_NAME)};     \
  }

LILY_DESCRIPTOR_LISTS(LILY_DEFINE_LIST)

#undef LILY_DEFINE_LIST
#undef LILY_NAME
#undef LILY_ENUMERATOR

// clang-format on

}  // namespace lily::napi
