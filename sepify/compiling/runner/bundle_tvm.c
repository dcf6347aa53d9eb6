#include "bundle_tvm.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sepify_cpu.h"
#include "sepify_sha256.h"

/* the versions that glibc had before 2.34 moved these into libc: older systems have no others */
#if defined(__x86_64__)
#define OLDEST "GLIBC_2.2.5"
#else
#define OLDEST "GLIBC_2.17"
#endif
__asm__(".symver dlopen, dlopen@" OLDEST);
__asm__(".symver dlsym, dlsym@" OLDEST);
__asm__(".symver dlerror, dlerror@" OLDEST);

static struct {
  int (*get_global)(const TVMFFIByteArray *, TVMFFIObjectHandle *);
  int (*set_global)(const TVMFFIByteArray *, TVMFFIObjectHandle, int);
  int (*create)(void *, TVMFFISafeCallType, void (*)(void *), TVMFFIObjectHandle *);
  int (*call)(TVMFFIObjectHandle, TVMFFIAny *, int32_t, TVMFFIAny *);
  int (*release)(TVMFFIObjectHandle);
  int (*from_dlpack)(DLManagedTensor *, int32_t, int32_t, TVMFFIObjectHandle *);
  void (*take_error)(TVMFFIObjectHandle *);
  void (*raise)(const char *, const char *);
  int (*string)(const TVMFFIByteArray *, TVMFFIAny *);
} api;

char *sepify_path(const char *folder, const char *name) {
  size_t size = strlen(folder) + strlen(name) + 2;
  char *path = malloc(size);
  if (path) snprintf(path, size, "%s/%s", folder, name);
  return path;
}

static int sum_of(const char *path, char hex[65]) {
  static unsigned char block[1 << 16];
  SepifySha256 sum;
  size_t got;
  FILE *file = fopen(path, "rb");
  if (!file) return -1;
  sepify_sha256_start(&sum);
  while ((got = fread(block, 1, sizeof block, file)) > 0) sepify_sha256_add(&sum, block, got);
  int failed = ferror(file);
  fclose(file);
  sepify_sha256_hex(&sum, hex);
  return failed ? -1 : 0;
}

/* every line of SHA256SUMS: 64 digits, two spaces, a name */
static int check_files(const char *folder, char *why, size_t room) {
  char line[512], hex[65];
  char *path = sepify_path(folder, "SHA256SUMS");
  FILE *list = fopen(path, "r");
  free(path);
  if (!list) return snprintf(why, room, "%s: no SHA256SUMS: the bundle is incomplete", folder), -1;
  int files = 0, fault = 0;
  while (!fault && fgets(line, sizeof line, list)) {
    line[strcspn(line, "\n")] = 0;
    if (strlen(line) < 67 || line[64] != ' ' || line[65] != ' ' || strchr(line + 66, '/')) {
      snprintf(why, room, "SHA256SUMS is damaged: copy the bundle again");
      fault = -1;
      break;
    }
    line[64] = 0;
    path = sepify_path(folder, line + 66);
    if (sum_of(path, hex)) {
      snprintf(why, room, "%s is missing: copy the bundle again", line + 66);
      fault = -1;
    } else if (strcmp(hex, line)) {
      snprintf(why, room, "%s is damaged, its checksum differs: copy the bundle again", line + 66);
      fault = -1;
    }
    free(path);
    ++files;
  }
  fclose(list);
  if (!fault && !files) return snprintf(why, room, "SHA256SUMS is empty: copy it again"), -1;
  return fault;
}

static void *ffi; /* libtvm_ffi */

int sepify_find(const char *name, void *place, char *why, size_t room) {
  void *symbol = dlsym(ffi, name);
  if (!symbol) return snprintf(why, room, "libtvm_ffi.so has no %s", name), -1;
  memcpy(place, &symbol, sizeof symbol);
  return 0;
}

static void *load(const char *folder, const char *name, char *why, size_t room) {
  char *path = sepify_path(folder, name);
  void *library = dlopen(path, RTLD_NOW | RTLD_GLOBAL); /* the network's code looks for it there */
  free(path);
  if (!library) snprintf(why, room, "cannot load %s: %s", name, dlerror());
  return library;
}

int sepify_load_tvm(const char *folder, const char *const *features, char *why, size_t room) {
  if (check_files(folder, why, room)) return -1;
  const char *missing = sepify_missing_feature(features);
  if (missing) {
    snprintf(why, room, "this CPU lacks %s, which the network was compiled for: compile it again "
             "for this CPU", missing);
    return -1;
  }
  ffi = load(folder, "libtvm_ffi.so", why, room);
  if (!ffi || !load(folder, "libtvm_runtime.so", why, room)) return -1;
  struct {
    const char *name;
    void *place;
  } wanted[] = {
      {"TVMFFIFunctionGetGlobal", &api.get_global}, {"TVMFFIFunctionSetGlobal", &api.set_global},
      {"TVMFFIFunctionCreate", &api.create},        {"TVMFFIFunctionCall", &api.call},
      {"TVMFFIObjectDecRef", &api.release},         {"TVMFFITensorFromDLPack", &api.from_dlpack},
      {"TVMFFIErrorMoveFromRaised", &api.take_error}, {"TVMFFIErrorSetRaisedFromCStr", &api.raise},
      {"TVMFFIStringFromByteArray", &api.string},
  };
  for (size_t i = 0; i < sizeof wanted / sizeof *wanted; ++i)
    if (sepify_find(wanted[i].name, wanted[i].place, why, room)) return -1;
  return 0;
}

/* Fetch the error that TVM raised; -1. */
static int failed(const char *what, char *why, size_t room) {
  TVMFFIObjectHandle error = NULL;
  api.take_error(&error);
  const char *message = "unknown error";
  size_t size = strlen(message);
  if (error) {
    const TVMFFIErrorCell *cell =
        (const TVMFFIErrorCell *)((const char *)error + sizeof(TVMFFIObject));
    message = cell->message.data;
    size = cell->message.size;
  }
  snprintf(why, room, "%s: %.*s", what, (int)(size < 400 ? size : 400), message);
  if (error) api.release(error);
  return -1;
}

TVMFFIAny sepify_text(const char *text) {
  TVMFFIAny any = {.type_index = kTVMFFIRawStr, .v_c_str = text};
  return any;
}

TVMFFIAny sepify_number(int64_t number) {
  TVMFFIAny any = {.type_index = kTVMFFIInt, .v_int64 = number};
  return any;
}

TVMFFIAny sepify_object(TVMFFIObjectHandle object) {
  TVMFFIAny any = {.type_index = ((TVMFFIObject *)object)->type_index, .v_obj = object};
  return any;
}

int sepify_call(TVMFFIObjectHandle function, TVMFFIAny *arguments, int count, TVMFFIAny *result,
                char *why, size_t room) {
  memset(result, 0, sizeof *result);
  return api.call(function, arguments, count, result) ? failed("TVM", why, room) : 0;
}

static TVMFFIByteArray bytes(const char *text) {
  TVMFFIByteArray array = {text, strlen(text)};
  return array;
}

int sepify_call_global(const char *name, TVMFFIAny *arguments, int count, TVMFFIAny *result,
                       char *why, size_t room) {
  TVMFFIByteArray key = bytes(name);
  TVMFFIObjectHandle function = NULL;
  if (api.get_global(&key, &function)) return failed(name, why, room);
  if (!function) return snprintf(why, room, "this TVM has no function %s", name), -1;
  int fault = sepify_call(function, arguments, count, result, why, room);
  api.release(function);
  return fault;
}

int sepify_method(TVMFFIObjectHandle module, const char *name, TVMFFIObjectHandle *function,
                  char *why, size_t room) {
  TVMFFIAny arguments[3] = {sepify_object(module), sepify_text(name),
                            {.type_index = kTVMFFIBool, .v_int64 = 1}};
  TVMFFIAny result;
  if (sepify_call_global("ffi.ModuleGetFunction", arguments, 3, &result, why, room)) return -1;
  if (result.type_index != kTVMFFIFunction)
    return snprintf(why, room, "the module has no function %s", name), -1;
  *function = result.v_obj;
  return 0;
}

int sepify_set_global(const char *name, TVMFFISafeCallType function, char *why, size_t room) {
  TVMFFIByteArray key = bytes(name);
  TVMFFIObjectHandle object = NULL;
  if (api.create(NULL, function, NULL, &object) || api.set_global(&key, object, 1))
    return failed(name, why, room);
  api.release(object);
  return 0;
}

static void forget(DLManagedTensor *managed) { free(managed); }

int sepify_wrap(DLTensor *tensor, TVMFFIObjectHandle *object, char *why, size_t room) {
  DLManagedTensor *managed = calloc(1, sizeof *managed);
  if (!managed) return snprintf(why, room, "out of memory"), -1;
  managed->dl_tensor = *tensor;
  managed->deleter = forget;
  return api.from_dlpack(managed, 64, 1, object) ? failed("input", why, room) : 0;
}

void sepify_release(TVMFFIObjectHandle object) {
  if (object) api.release(object);
}

void sepify_release_any(TVMFFIAny *value) {
  if (value->type_index >= kTVMFFIStaticObjectBegin) api.release(value->v_obj);
}

int sepify_owned_text(const char *text, TVMFFIAny *result) {
  TVMFFIByteArray array = bytes(text);
  return api.string(&array, result);
}

int sepify_raise(const char *message) {
  api.raise("RuntimeError", message);
  return -1;
}
