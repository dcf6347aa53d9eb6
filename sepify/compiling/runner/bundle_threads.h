/* Our thread pool (sepify_threads.c) under TVM's runtime, in place of its own. */
#ifndef SEPIFY_BUNDLE_THREADS_H
#define SEPIFY_BUNDLE_THREADS_H

#include <stddef.h>

/* After sepify_load_tvm and before code is loaded. `threads` 0: TVM_NUM_THREADS, or one for each
 * core that this process may use. 0, or -1 with the reason in `why`; so below. */
int sepify_install_threads(int threads, char *why, size_t room);

/* Let clients of the RPC server set and ask their number, by the names of TVM's own functions. */
int sepify_serve_threads(char *why, size_t room);

#endif
