/* The little of TVM that a bundle needs, through the C interface of libtvm_ffi, which is loaded
 * when its file has been checked: neither program is linked to it. */
#ifndef SEPIFY_BUNDLE_TVM_H
#define SEPIFY_BUNDLE_TVM_H

#include <stddef.h>
#include <tvm/ffi/c_api.h>

/* Check files and CPU, then load libtvm_ffi and libtvm_runtime from `folder`. 0, or -1 with the
 * reason in `why`; so below. */
int sepify_load_tvm(const char *folder, const char *const *features, char *why, size_t room);

/* Put the address of a function of libtvm_ffi into the pointer at `place`. */
int sepify_find(const char *name, void *place, char *why, size_t room);

/* The path of a file in the folder, in memory of its own. */
char *sepify_path(const char *folder, const char *name);

TVMFFIAny sepify_text(const char *text);
TVMFFIAny sepify_number(int64_t number);
TVMFFIAny sepify_object(TVMFFIObjectHandle object);

/* Call a function, or a global one by its name. The result is owned. */
int sepify_call(TVMFFIObjectHandle function, TVMFFIAny *arguments, int count, TVMFFIAny *result,
                char *why, size_t room);
int sepify_call_global(const char *name, TVMFFIAny *arguments, int count, TVMFFIAny *result,
                       char *why, size_t room);

/* A function of a module, by its name; owned. */
int sepify_method(TVMFFIObjectHandle module, const char *name, TVMFFIObjectHandle *function,
                  char *why, size_t room);

/* Make `function` a global one of that name. */
int sepify_set_global(const char *name, TVMFFISafeCallType function, char *why, size_t room);

/* A tensor around memory that somebody else keeps. */
int sepify_wrap(DLTensor *tensor, TVMFFIObjectHandle *object, char *why, size_t room);

void sepify_release(TVMFFIObjectHandle object);
void sepify_release_any(TVMFFIAny *value);

/* A string that TVM owns, as the result of a function that it calls. */
int sepify_owned_text(const char *text, TVMFFIAny *result);

/* Report an error to TVM from a function that it calls; returns -1. */
int sepify_raise(const char *message);

#endif
