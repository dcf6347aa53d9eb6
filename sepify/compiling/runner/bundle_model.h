/* A compiled network and TVM's runtime, in a folder: loaded and called from C. */
#ifndef SEPIFY_BUNDLE_MODEL_H
#define SEPIFY_BUNDLE_MODEL_H

#include <stddef.h>
#include <stdint.h>

enum { SEPIFY_MOST_AXES = 8 };

typedef struct {
  uint8_t type_code, type_bits; /* DLPack's */
  int axes;
  int64_t shape[SEPIFY_MOST_AXES];
  size_t bytes;
} SepifyValue;

/* What was compiled; generated for each bundle. */
typedef struct {
  const char *target;
  const char *const *features; /* that the code uses; ends with NULL */
  int input_count, output_count;
  const SepifyValue *inputs, *outputs;
  double tolerance; /* of the self-test */
} SepifyBundle;

extern const SepifyBundle sepify_bundle;

/* Check every file of `folder` against SHA256SUMS, then the CPU; only then load the code. `threads`
 * 0: TVM_NUM_THREADS, or one for each core that the process may use. One network in a process. 0, or -1 with the reason in `why`. */
int sepify_open(const char *folder, int threads, char *why, size_t room);

/* One inference: values as the network takes them, in the order of `sepify_bundle`. 0 or -1. */
int sepify_run(const void *const *inputs, void *const *outputs, char *why, size_t room);

#endif
