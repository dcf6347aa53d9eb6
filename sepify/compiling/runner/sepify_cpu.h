/* Whether this CPU has the instructions that code was compiled for. */
#ifndef SEPIFY_CPU_H
#define SEPIFY_CPU_H

/* The first of `features` (LLVM's names, ends with NULL) that this CPU lacks or that cannot be
 * looked up; NULL if it has them all. */
const char *sepify_missing_feature(const char *const *features);

#endif
