#include "bundle_describe.h"

#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

static char text[1 << 15];

/* Append what a file holds, as far as there is room; nothing where it cannot be read. */
static void append(const char *head, const char *path) {
  FILE *file = fopen(path, "r");
  size_t at = strlen(text), room = sizeof text - at;
  if (!file || room < strlen(head) + 3) return;
  at += (size_t)sprintf(text + at, "%s", head);
  at += fread(text + at, 1, sizeof text - at - 2, file);
  fclose(file);
  while (text[at - 1] == '\n' || text[at - 1] == 0) --at; /* device trees end theirs with a 0 */
  memcpy(text + at, "\n", 2);
}

const char *sepify_describe(void) {
  static const char clock[] = "/sys/devices/system/cpu/cpu0/cpufreq/";
  struct utsname system_ = {.sysname = ""};
  char path[128];
#ifdef __x86_64__
  const char *architecture = "x86_64";
#else
  const char *architecture = "aarch64";
#endif
  uname(&system_);
  snprintf(text, sizeof text, "architecture: %s\nsystem: %s %s %s\ncpus: %ld\n", architecture,
           system_.sysname, system_.release, system_.machine, sysconf(_SC_NPROCESSORS_ONLN));
  append("board: ", "/proc/device-tree/model");
  snprintf(path, sizeof path, "%scpuinfo_max_freq", clock);
  append("clock: ", path);
  snprintf(path, sizeof path, "%sscaling_governor", clock);
  append("governor: ", path);
  append("", "/proc/cpuinfo");
  return text;
}
