#define _GNU_SOURCE
#include "bundle_threads.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>

#include "bundle_tvm.h"
#include "sepify_threads.h"

/* TVM_NUM_THREADS, or one for each core that this process may use */
static int default_threads(void) {
  const char *told = getenv("TVM_NUM_THREADS");
  cpu_set_t cores;
  int threads = told ? atoi(told) : 0;
  if (threads < 1) threads = sched_getaffinity(0, sizeof cores, &cores) ? 1 : CPU_COUNT(&cores);
  return threads < SEPIFY_MOST_THREADS ? threads : SEPIFY_MOST_THREADS;
}

int sepify_install_threads(int threads, char *why, size_t room) {
  static SepifyErrors errors;
  int (*tell)(const char *, void *) = NULL;
  struct {
    const char *name;
    void *place;
  } wanted[] = {
      {"TVMFFIErrorMoveFromRaised", &errors.take}, {"TVMFFIErrorSetRaised", &errors.raise},
      {"TVMFFIObjectDecRef", &errors.release},     {"TVMFFIErrorSetRaisedFromCStr", &errors.say},
      {"TVMFFIEnvModRegisterContextSymbol", &tell},
  };
  for (size_t i = 0; i < sizeof wanted / sizeof *wanted; ++i)
    if (sepify_find(wanted[i].name, wanted[i].place, why, room)) return -1;
  sepify_hand_over_errors(&errors);
  if (threads < 1) threads = default_threads();
  if (!sepify_make_threads(threads))
    return snprintf(why, room, "%d threads are not to be had", threads), -1;
  sepify_use_threads(threads);
  /* TVM writes this address into code that it loads */
  return tell("__TVMBackendParallelLaunch", (void *)sepify_parallel)
             ? (snprintf(why, room, "TVM takes no other thread pool"), -1)
             : 0;
}

static int configure(void *self, const TVMFFIAny *arguments, int32_t count, TVMFFIAny *result) {
  (void)self;
  (void)result;
  if (count < 2 || arguments[1].type_index != kTVMFFIInt)
    return sepify_raise("mode and number of threads are wanted");
  int64_t threads = arguments[1].v_int64;
  if (threads == 0) threads = default_threads(); /* as TVM has it */
  if (threads < 1 || threads > SEPIFY_MOST_THREADS || !sepify_make_threads((int)threads))
    return sepify_raise("this number of threads is not to be had");
  sepify_use_threads((int)threads);
  return 0;
}

static int number(void *self, const TVMFFIAny *arguments, int32_t count, TVMFFIAny *result) {
  (void)self;
  (void)arguments;
  (void)count;
  *result = sepify_number(sepify_used_threads());
  return 0;
}

int sepify_serve_threads(char *why, size_t room) {
  return sepify_set_global("runtime.config_threadpool", configure, why, room) ||
                 sepify_set_global("runtime.NumThreads", number, why, room)
             ? -1
             : 0;
}
