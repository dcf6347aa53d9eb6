/* Example and self-test of a network without TVM:
 *
 *   main --self-test                 0 only if the stored input gives the stored output
 *   main input0.bin ... output0.bin  raw values in, raw values out
 *   main --repeat N                  N inferences of the stored input, for whoever counts
 *
 * Its own files are named by the generated example.h. */
#include "example.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static unsigned char arena[EXAMPLE_ARENA_BYTES(EXAMPLE_THREADS)] __attribute__((aligned(64)));

static int fail(const char *what, const char *why) {
  fprintf(stderr, "%s: %s\n", what, why);
  return 1;
}

/* largest |difference| over largest |wanted|; infinite where a value is not finite */
static double relative_error(const float *have, const float *want, size_t count) {
  double scale = 0, worst = 0;
  for (size_t i = 0; i < count; ++i) {
    if (!isfinite(have[i])) return INFINITY;
    scale = fmax(scale, fabs(want[i]));
    worst = fmax(worst, fabs((double)have[i] - want[i]));
  }
  return scale > 0 ? worst / scale : worst;
}

static int self_test(void) {
  int error = EXAMPLE_RUN_STORED();
  if (error) return fail("run", EXAMPLE_MESSAGE(error));
  double worst = 0;
  for (int i = 0; i < EXAMPLE_OUTPUTS; ++i) {
    if (!example_output_is_float[i]) {
      if (memcmp(example_outputs[i], example_wanted[i], example_output_bytes[i])) worst = INFINITY;
      continue;
    }
    worst = fmax(worst, relative_error(example_outputs[i], (const float *)example_wanted[i],
                                       example_output_bytes[i] / sizeof(float)));
  }
  printf("self-test: largest relative error %.2e, allowed %.0e: %s\n", worst, EXAMPLE_TOLERANCE,
         worst <= EXAMPLE_TOLERANCE ? "passed" : "FAILED");
  return worst <= EXAMPLE_TOLERANCE ? 0 : 1;
}

static int read_file(const char *path, void *to, size_t bytes) {
  FILE *file = fopen(path, "rb");
  if (!file) return fail(path, "cannot be opened");
  size_t got = fread(to, 1, bytes, file);
  int more = fgetc(file) != EOF;
  fclose(file);
  return got == bytes && !more ? 0 : fail(path, "has another size than the input");
}

static int write_file(const char *path, const void *from, size_t bytes) {
  FILE *file = fopen(path, "wb");
  if (!file) return fail(path, "cannot be written");
  size_t put = fwrite(from, 1, bytes, file);
  return (fclose(file) == 0 && put == bytes) ? 0 : fail(path, "cannot be written");
}

int main(int count, char **arguments) {
  int testing = count == 2 && !strcmp(arguments[1], "--self-test");
  int repeat = count == 3 && !strcmp(arguments[1], "--repeat") ? atoi(arguments[2]) : 0;
  if (!testing && repeat < 1 && count != 1 + EXAMPLE_INPUTS + EXAMPLE_OUTPUTS) {
    fprintf(stderr, "usage: %s --self-test, --repeat N, or %d input and %d output files\n", arguments[0],
            EXAMPLE_INPUTS, EXAMPLE_OUTPUTS);
    return 2;
  }
  int error = EXAMPLE_INIT(arena, EXAMPLE_THREADS);
  if (error) return fail("init", EXAMPLE_MESSAGE(error));
  if (testing) return self_test();
  for (; repeat > 0; --repeat) {
    error = EXAMPLE_RUN_STORED();
    if (error) return fail("run", EXAMPLE_MESSAGE(error));
    if (repeat == 1) return 0;
  }
  for (int i = 0; i < EXAMPLE_INPUTS; ++i)
    if (read_file(arguments[1 + i], example_inputs[i], example_input_bytes[i])) return 1;
  error = EXAMPLE_RUN();
  if (error) return fail("run", EXAMPLE_MESSAGE(error));
  for (int i = 0; i < EXAMPLE_OUTPUTS; ++i)
    if (write_file(arguments[1 + EXAMPLE_INPUTS + i], example_outputs[i], example_output_bytes[i]))
      return 1;
  return 0;
}
