/* The runner of a bundle:
 *
 *   run --self-test                   0 only if the stored input gives the stored output
 *   run input0.bin ... output0.bin    raw values in, raw values out
 *   run --time N                      N inferences of the stored input: least and median
 *
 * --threads N before these; TVM_NUM_THREADS, or one for each core, without it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "bundle_model.h"
#include "bundle_tvm.h"

static char why[512];

static int fail(const char *what) {
  fprintf(stderr, "%s: %s\n", what, why);
  return 1;
}

static int read_file(const char *path, void *to, size_t bytes) {
  FILE *file = fopen(path, "rb");
  if (!file) return snprintf(why, sizeof why, "cannot be opened"), -1;
  size_t got = fread(to, 1, bytes, file);
  int more = fgetc(file) != EOF;
  fclose(file);
  if (got == bytes && !more) return 0;
  snprintf(why, sizeof why, "%zu bytes are wanted, not %s", bytes, more ? "more" : "less");
  return -1;
}

static int write_file(const char *path, const void *from, size_t bytes) {
  FILE *file = fopen(path, "wb");
  size_t put = file ? fwrite(from, 1, bytes, file) : 0;
  if (file && fclose(file) == 0 && put == bytes) return 0;
  snprintf(why, sizeof why, "cannot be written");
  return -1;
}

static void **buffers(const SepifyValue *values, int count) {
  void **made = calloc((size_t)count + 1, sizeof *made);
  for (int i = 0; made && i < count; ++i)
    if (!(made[i] = calloc(1, values[i].bytes + 1))) return NULL;
  return made;
}

static int read_stored(const char *folder, const char *word, const SepifyValue *values, int count,
                       void **into) {
  char name[32];
  for (int i = 0; i < count; ++i) {
    snprintf(name, sizeof name, "%s%d.bin", word, i);
    char *path = sepify_path(folder, name);
    int fault = read_file(path, into[i], values[i].bytes);
    free(path);
    if (fault) return fail(name);
  }
  return 0;
}

/* largest |difference| over largest |wanted|; 1/0 where a value is not finite */
static double relative_error(const float *have, const float *want, size_t count) {
  double scale = 0, worst = 0;
  for (size_t i = 0; i < count; ++i) {
    double size = want[i] < 0 ? -(double)want[i] : want[i];
    double difference = (double)have[i] - want[i];
    if (!(have[i] - have[i] == 0)) return 1e300;
    if (difference < 0) difference = -difference;
    if (size > scale) scale = size;
    if (difference > worst) worst = difference;
  }
  return scale > 0 ? worst / scale : worst;
}

static int self_test(const char *folder, void **inputs, void **outputs) {
  int count = sepify_bundle.output_count;
  void **wanted = buffers(sepify_bundle.outputs, count);
  if (!wanted) return fail("out of memory");
  if (read_stored(folder, "output", sepify_bundle.outputs, count, wanted)) return 1;
  if (sepify_run((const void *const *)inputs, outputs, why, sizeof why)) return fail("run");
  double worst = 0;
  for (int i = 0; i < count; ++i) {
    const SepifyValue *value = &sepify_bundle.outputs[i];
    double error = memcmp(outputs[i], wanted[i], value->bytes) ? 1e300 : 0;
    if (value->type_code == kDLFloat && value->type_bits == 32)
      error = relative_error(outputs[i], wanted[i], value->bytes / sizeof(float));
    if (error > worst) worst = error;
  }
  int passed = worst <= sepify_bundle.tolerance;
  printf("self-test: largest relative error %.2e, allowed %.0e: %s\n", worst,
         sepify_bundle.tolerance, passed ? "passed" : "FAILED");
  return !passed;
}

static int ascending(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return x < y ? -1 : x > y;
}

static double milliseconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return 1e3 * (double)now.tv_sec + 1e-6 * (double)now.tv_nsec;
}

static int time_it(int runs, void **inputs, void **outputs) {
  double *taken = calloc((size_t)runs, sizeof *taken);
  if (!taken) return fail("out of memory");
  for (int i = -3; i < runs; ++i) { /* three runs to warm up */
    double start = milliseconds();
    if (sepify_run((const void *const *)inputs, outputs, why, sizeof why)) return fail("run");
    if (i >= 0) taken[i] = milliseconds() - start;
  }
  qsort(taken, (size_t)runs, sizeof *taken, ascending);
  printf("%d runs: least %.3f ms, median %.3f ms\n", runs, taken[0], taken[runs / 2]);
  return 0;
}

static int usage(const char *program) {
  fprintf(stderr, "usage: %s [--threads N] --self-test, --time N, or %d input and %d output files\n",
          program, sepify_bundle.input_count, sepify_bundle.output_count);
  return 2;
}

int main(int count, char **arguments) {
  const char *program = arguments[0];
  int threads = 0, ins = sepify_bundle.input_count, outs = sepify_bundle.output_count;
  if (count > 2 && !strcmp(arguments[1], "--threads")) {
    threads = atoi(arguments[2]);
    if (threads < 1) return usage(program);
    arguments += 2;
    count -= 2;
  }
  int testing = count == 2 && !strcmp(arguments[1], "--self-test");
  int runs = count == 3 && !strcmp(arguments[1], "--time") ? atoi(arguments[2]) : 0;
  if (!testing && runs < 1 && count != 1 + ins + outs) return usage(program);

  char folder[4096];
  ssize_t length = readlink("/proc/self/exe", folder, sizeof folder - 1);
  folder[length > 0 ? length : 0] = 0;
  char *end = strrchr(folder, '/');
  if (end) *end = 0;
  if (sepify_open(folder, threads, why, sizeof why)) return fail("this bundle cannot be used");

  void **inputs = buffers(sepify_bundle.inputs, ins), **outputs = buffers(sepify_bundle.outputs, outs);
  if (!inputs || !outputs) return fail("out of memory");
  if (testing || runs > 0) {
    if (read_stored(folder, "input", sepify_bundle.inputs, ins, inputs)) return 1;
    return testing ? self_test(folder, inputs, outputs) : time_it(runs, inputs, outputs);
  }
  for (int i = 0; i < ins; ++i)
    if (read_file(arguments[1 + i], inputs[i], sepify_bundle.inputs[i].bytes))
      return fail(arguments[1 + i]);
  if (sepify_run((const void *const *)inputs, outputs, why, sizeof why)) return fail("run");
  for (int i = 0; i < outs; ++i)
    if (write_file(arguments[1 + ins + i], outputs[i], sepify_bundle.outputs[i].bytes))
      return fail(arguments[1 + ins + i]);
  return 0;
}
