/*
 * The part of DLPack 1.x that the addon exchanges: names, values and layout equal include/dlpack/dlpack.h of
 * https://github.com/dmlc/dlpack. A program may include that file in the place of this one.
 */
#ifndef DLPACK_DLPACK_H_
#define DLPACK_DLPACK_H_

#include <stdint.h>

/* The major version determines the layout. A minor version adds values of the enumerations. */
#define DLPACK_MAJOR_VERSION 1
#define DLPACK_MINOR_VERSION 1

typedef struct {
  uint32_t major;
  uint32_t minor;
} DLPackVersion;

typedef enum {
  kDLCPU = 1,
  kDLCUDA = 2,
  kDLCUDAHost = 3, /* pinned */
} DLDeviceType;

typedef struct {
  int32_t device_type; /* DLDeviceType; int32_t, because it may hold other values */
  int32_t device_id;
} DLDevice;

typedef enum {
  kDLInt = 0,
  kDLUInt = 1,
  kDLFloat = 2,
  kDLBfloat = 4,
  kDLBool = 6, /* of 8 bits */
} DLDataTypeCode;

typedef struct {
  uint8_t code; /* DLDataTypeCode */
  uint8_t bits;
  uint16_t lanes; /* 1 but for vectors */
} DLDataType;

typedef struct {
  void *data;
  DLDevice device;
  int32_t ndim;
  DLDataType dtype;
  int64_t *shape;
  int64_t *strides;     /* in elements; before version 1.2 NULL is row-major without gaps */
  uint64_t byte_offset; /* from data to the first element */
} DLTensor;

#define DLPACK_FLAG_BITMASK_READ_ONLY (1UL << 0UL)

typedef struct DLManagedTensorVersioned {
  DLPackVersion version;
  void *manager_ctx; /* for the deleter */
  /* Frees this structure and gives up the memory of the tensor. May be NULL. */
  void (*deleter)(struct DLManagedTensorVersioned *self);
  uint64_t flags;
  DLTensor dl_tensor;
} DLManagedTensorVersioned;

#endif
