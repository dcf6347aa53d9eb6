#include "bundle_model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bundle_threads.h"
#include "bundle_tvm.h"

enum { POOLED_ALLOCATOR = 2 };

static TVMFFIObjectHandle entry;          /* the network's `main` */
static DLTensor *given;                   /* its inputs, in memory as TVM wants it */

static int make_inputs(char *why, size_t room) {
  int count = sepify_bundle.input_count;
  given = calloc((size_t)count, sizeof *given);
  for (int i = 0; given && i < count; ++i) {
    const SepifyValue *value = &sepify_bundle.inputs[i];
    void *memory = NULL;
    if (posix_memalign(&memory, 64, value->bytes)) given = NULL;
    if (!given) break;
    given[i].data = memory;
    given[i].device.device_type = kDLCPU;
    given[i].ndim = value->axes;
    given[i].dtype.code = value->type_code;
    given[i].dtype.bits = value->type_bits;
    given[i].dtype.lanes = 1;
    given[i].shape = (int64_t *)value->shape;
  }
  return given ? 0 : (snprintf(why, room, "out of memory"), -1);
}

int sepify_open(const char *folder, int threads, char *why, size_t room) {
  if (sepify_load_tvm(folder, sepify_bundle.features, why, room) ||
      sepify_install_threads(threads, why, room))
    return -1;
  char *path = sepify_path(folder, "module.so");
  TVMFFIAny arguments[3] = {sepify_text(path)};
  TVMFFIAny module, machine, nothing;
  int fault = sepify_call_global("ffi.ModuleLoadFromFile", arguments, 1, &module, why, room);
  free(path);
  TVMFFIObjectHandle load = NULL, initialise = NULL;
  if (fault || sepify_method(module.v_obj, "vm_load_executable", &load, why, room) ||
      sepify_call(load, NULL, 0, &machine, why, room) ||
      sepify_method(machine.v_obj, "vm_initialization", &initialise, why, room))
    return -1;
  arguments[0] = sepify_number(kDLCPU);
  arguments[1] = sepify_number(0);
  arguments[2] = sepify_number(POOLED_ALLOCATOR);
  if (sepify_call(initialise, arguments, 3, &nothing, why, room) ||
      sepify_method(machine.v_obj, "main", &entry, why, room) || make_inputs(why, room))
    return -1;
  sepify_release(load);
  sepify_release(initialise);
  return 0;
}

static int copy_out(TVMFFIObjectHandle object, int index, void *to, char *why, size_t room) {
  const DLTensor *tensor = (const DLTensor *)((const char *)object + sizeof(TVMFFIObject));
  const SepifyValue *value = &sepify_bundle.outputs[index];
  size_t bytes = value->type_bits / 8;
  for (int i = 0; i < tensor->ndim; ++i) bytes *= (size_t)tensor->shape[i];
  if (bytes != value->bytes) return snprintf(why, room, "output %d has another size", index), -1;
  memcpy(to, (const char *)tensor->data + tensor->byte_offset, bytes);
  return 0;
}

static int copy_all(TVMFFIAny *result, void *const *outputs, char *why, size_t room) {
  if (result->type_index == kTVMFFITensor)
    return sepify_bundle.output_count == 1 ? copy_out(result->v_obj, 0, outputs[0], why, room)
                                           : (snprintf(why, room, "one output, not several"), -1);
  for (int i = 0; i < sepify_bundle.output_count; ++i) {
    TVMFFIAny arguments[2] = {*result, sepify_number(i)}, part;
    if (sepify_call_global("ffi.ArrayGetItem", arguments, 2, &part, why, room)) return -1;
    int fault = copy_out(part.v_obj, i, outputs[i], why, room);
    sepify_release_any(&part);
    if (fault) return -1;
  }
  return 0;
}

int sepify_run(const void *const *inputs, void *const *outputs, char *why, size_t room) {
  enum { MOST_INPUTS = 32 };
  TVMFFIAny arguments[MOST_INPUTS], result;
  int count = sepify_bundle.input_count, wrapped = 0, fault = 0;
  if (!entry) return snprintf(why, room, "the network is not open"), -1;
  if (count > MOST_INPUTS) return snprintf(why, room, "more than %d inputs", MOST_INPUTS), -1;
  for (; !fault && wrapped < count; ++wrapped) {
    TVMFFIObjectHandle tensor = NULL;
    memcpy(given[wrapped].data, inputs[wrapped], sepify_bundle.inputs[wrapped].bytes);
    fault = sepify_wrap(&given[wrapped], &tensor, why, room);
    if (fault) break;
    arguments[wrapped] = sepify_object(tensor);
  }
  if (!fault) fault = sepify_call(entry, arguments, count, &result, why, room);
  while (wrapped-- > 0) sepify_release_any(&arguments[wrapped]);
  if (fault) return -1;
  fault = copy_all(&result, outputs, why, room);
  sepify_release_any(&result);
  return fault;
}
