#include "sepify_program.h"

#include <string.h>

#include "sepify_cpu.h"
#include "sepify_threads.h"

enum { ALIGNMENT = 64, TENSOR_POINTER = 7, CPU = 1 };

const char *sepify_message(int code) {
  switch (code) {
    case SEPIFY_OK: return "no error";
    case SEPIFY_WRONG_CPU: return "this CPU lacks instructions that the network was compiled for";
    case SEPIFY_NOT_READY: return "run was called before init";
    case SEPIFY_NO_THREADS: return "this number of threads is not to be had";
    case SEPIFY_KERNEL_FAILED: return "a kernel refused its arguments";
    case SEPIFY_MISALIGNED: return "the arena must lie at a multiple of 64 bytes";
    default: return "unknown error";
  }
}

/* The kernels' scratch memory: one stack for each thread, so that nothing is allocated in a run. */
static unsigned char *scratch;
static size_t scratch_each;
static size_t scratch_used[SEPIFY_MOST_THREADS];

static void *take_scratch(int device_type, int device_id, uint64_t bytes, int code, int bits) {
  (void)device_type, (void)device_id, (void)code, (void)bits;
  int thread = sepify_thread();
  size_t rounded = ((size_t)bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
  if (scratch_used[thread] + rounded > scratch_each) return NULL; /* the kernel reports it */
  void *taken = scratch + (size_t)thread * scratch_each + scratch_used[thread];
  scratch_used[thread] += rounded;
  return taken;
}

static int give_scratch(int device_type, int device_id, void *taken) {
  (void)device_type, (void)device_id;
  int thread = sepify_thread(); /* kernels give back in the opposite order */
  scratch_used[thread] = (size_t)((unsigned char *)taken - scratch) - (size_t)thread * scratch_each;
  return 0;
}

/* The names by which compiled kernels look for the TVM runtime, which is not here. */
void *__TVMBackendAllocWorkspace = (void *)take_scratch;
void *__TVMBackendFreeWorkspace = (void *)give_scratch;
void *__TVMBackendParallelLaunch = (void *)sepify_parallel;

void TVMFFIErrorSetRaisedFromCStrParts(const char *kind, const char **parts, int32_t count) {
  (void)kind, (void)parts, (void)count; /* the kernel's return value says that it failed */
}

int sepify_start(SepifyProgram *program, void *arena, int threads) {
  if (sepify_missing_feature(program->features)) return SEPIFY_WRONG_CPU;
  if (!arena || (uintptr_t)arena % ALIGNMENT) return SEPIFY_MISALIGNED;
  if (!sepify_make_threads(threads)) return SEPIFY_NO_THREADS;
  for (uint32_t i = 0; i < program->tensor_count; ++i) {
    const SepifyTensorSpec *spec = &program->specs[i];
    SepifyTensor *tensor = &program->tensors[i];
    memset(tensor, 0, sizeof *tensor);
    tensor->data = (spec->in_weights ? (unsigned char *)program->weights : (unsigned char *)arena) +
                   spec->offset;
    tensor->device_type = CPU;
    tensor->ndim = spec->ndim;
    tensor->type_code = spec->type_code;
    tensor->type_bits = spec->type_bits;
    tensor->type_lanes = 1;
    tensor->shape = program->extents + spec->shape;
  }
  program->arena = arena;
  program->threads = threads;
  return SEPIFY_OK;
}

int sepify_execute(SepifyProgram *program, const void *const *inputs, void *const *outputs) {
  enum { MOST_ARGUMENTS = 32 };
  SepifyAny values[MOST_ARGUMENTS], result;
  if (!program->arena) return SEPIFY_NOT_READY;
  sepify_use_threads(program->threads);
  scratch = program->arena + program->planned_bytes;
  scratch_each = program->workspace_bytes;
  memset(scratch_used, 0, sizeof scratch_used);
  for (uint32_t i = 0; i < program->input_count; ++i) {
    uint32_t tensor = program->inputs[i];
    memcpy(program->tensors[tensor].data, inputs[i], program->specs[tensor].bytes);
  }
  for (uint32_t i = 0; i < program->call_count; ++i) {
    const SepifyCall *call = &program->calls[i];
    if (call->count > MOST_ARGUMENTS) return SEPIFY_KERNEL_FAILED;
    memset(values, 0, sizeof values);
    memset(&result, 0, sizeof result);
    for (uint32_t k = 0; k < call->count; ++k) {
      values[k].type_index = TENSOR_POINTER;
      values[k].value.pointer = &program->tensors[program->arguments[call->first + k]];
    }
    if (call->kernel(NULL, values, (int32_t)call->count, &result)) return SEPIFY_KERNEL_FAILED;
  }
  for (uint32_t i = 0; i < program->output_count; ++i) {
    uint32_t tensor = program->outputs[i];
    memcpy(outputs[i], program->tensors[tensor].data, program->specs[tensor].bytes);
  }
  return SEPIFY_OK;
}
