#ifndef SEPIFY_BUNDLE_DESCRIBE_H
#define SEPIFY_BUNDLE_DESCRIBE_H

/* What this board is, for whoever keeps its times: lines of "name: value", our own first, then
 * /proc/cpuinfo. */
const char *sepify_describe(void);

#endif
