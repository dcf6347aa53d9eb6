/* A compiled network as tables, and what runs them without TVM. Used by generated code alone; the
 * header of the network is what an application includes. */
#ifndef SEPIFY_PROGRAM_H
#define SEPIFY_PROGRAM_H

#include <stddef.h>
#include <stdint.h>

enum {
  SEPIFY_OK = 0,
  SEPIFY_WRONG_CPU = -1,    /* the CPU lacks instructions that the kernels use */
  SEPIFY_NOT_READY = -2,    /* run before init */
  SEPIFY_NO_THREADS = -3,   /* threads below 1, above those compiled in, or not to be had */
  SEPIFY_KERNEL_FAILED = -4, /* a kernel refused its arguments: a fault of the compiler */
  SEPIFY_MISALIGNED = -5    /* the arena is NULL or not at a multiple of 64 */
};

/* What an error means, in words. */
const char *sepify_message(int code);

/* DLPack's tensor (dlpack.h 1.0), which the kernels take */
typedef struct {
  void *data;
  int32_t device_type, device_id;
  int32_t ndim;
  uint8_t type_code, type_bits;
  uint16_t type_lanes;
  int64_t *shape;
  int64_t *strides;
  uint64_t byte_offset;
} SepifyTensor;

/* TVM FFI's value; kernels take an array of them (tvm/ffi/c_api.h 0.1) */
typedef struct {
  int32_t type_index;
  uint32_t zero_padding;
  union {
    int64_t number;
    void *pointer;
  } value;
} SepifyAny;

typedef int (*SepifyKernel)(void *self, const SepifyAny *arguments, int32_t count, SepifyAny *result);

typedef struct {
  uint8_t in_weights; /* else in the arena */
  uint8_t type_code, type_bits, ndim;
  uint32_t shape; /* where in the table of extents */
  uint64_t offset, bytes;
} SepifyTensorSpec;

typedef struct {
  SepifyKernel kernel;
  uint32_t first, count; /* where in the table of arguments, and how many */
} SepifyCall;

typedef struct {
  const char *const *features; /* that the kernels use; ends with NULL */
  const unsigned char *weights;
  int64_t *extents;
  const SepifyTensorSpec *specs;
  const uint32_t *arguments;
  const SepifyCall *calls;
  const uint32_t *inputs, *outputs; /* numbers of tensors */
  uint32_t tensor_count, call_count, input_count, output_count;
  size_t planned_bytes;   /* of the arena: every tensor that is no weight */
  size_t workspace_bytes; /* for each thread, after those */
  SepifyTensor *tensors;  /* filled in by sepify_start */
  unsigned char *arena;   /* NULL until then */
  int threads;
} SepifyProgram;

/* Check CPU and arena, make threads. Programs of one process share the threads. */
int sepify_start(SepifyProgram *program, void *arena, int threads);

/* Run once. Allocates nothing. One run at a time in a process. */
int sepify_execute(SepifyProgram *program, const void *const *inputs, void *const *outputs);

#endif
