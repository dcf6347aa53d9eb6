/* A plugin for qemu-user: counts the instructions that a program executes, by kind, and writes the
 * counts when it ends. The declarations are those of qemu-plugin.h, API version 1 (QEMU 4.2 on),
 * which Debian does not ship.
 *
 *   cc -shared -fPIC count_plugin.c -o count.so
 *   qemu-aarch64 -plugin ./count.so,out=counts.txt -d plugin program */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t qemu_plugin_id_t;
typedef struct qemu_info_t qemu_info_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum { ADD = 0 }; /* QEMU_PLUGIN_INLINE_ADD_U64 */

extern void qemu_plugin_register_vcpu_tb_trans_cb(
    qemu_plugin_id_t, void (*)(qemu_plugin_id_t, struct qemu_plugin_tb *));
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
extern struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
extern char *qemu_plugin_insn_disas(const struct qemu_plugin_insn *);
extern void qemu_plugin_register_vcpu_insn_exec_inline(struct qemu_plugin_insn *, int, void *,
                                                       uint64_t);
extern void qemu_plugin_register_atexit_cb(qemu_plugin_id_t, void (*)(qemu_plugin_id_t, void *),
                                           void *);

__attribute__((visibility("default"))) int qemu_plugin_version = 1;

/* Mnemonics that begin with one of these. The first four are fused or chained multiply-adds; a
 * vector one has lanes of four floats in its operands. */
static const char *const multiply_add[] = {"fmla", "fmadd", "vfma", "vmla", NULL};
static const char *const load[] = {"ld", "vld", "pop", "vpop", NULL};
static const char *const store[] = {"st", "vst", "push", "vpush", NULL};

static uint64_t instructions, vector_fma, scalar_fma, loads, stores;
static const char *path = "counts.txt";

static int begins(const char *text, const char *const *words) {
  for (; *words; ++words)
    if (!strncmp(text, *words, strlen(*words))) return 1;
  return 0;
}

/* four floats at a time: v0.4s on armv8; q0 on armv7 */
static int is_vector(const char *text) { return strstr(text, ".4s") || strstr(text, " q"); }

static void count(struct qemu_plugin_insn *instruction, uint64_t *counter) {
  qemu_plugin_register_vcpu_insn_exec_inline(instruction, ADD, counter, 1);
}

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *block) {
  (void)id;
  size_t size = qemu_plugin_tb_n_insns(block);
  for (size_t i = 0; i < size; ++i) {
    struct qemu_plugin_insn *instruction = qemu_plugin_tb_get_insn(block, i);
    char *text = qemu_plugin_insn_disas(instruction);
    count(instruction, &instructions);
    if (text && begins(text, multiply_add))
      count(instruction, is_vector(text) ? &vector_fma : &scalar_fma);
    if (text && begins(text, load)) count(instruction, &loads);
    if (text && begins(text, store)) count(instruction, &stores);
    free(text);
  }
}

static void ended(qemu_plugin_id_t id, void *nothing) {
  (void)id, (void)nothing;
  FILE *file = fopen(path, "w");
  if (!file) return;
  fprintf(file, "%llu %llu %llu %llu %llu\n", (unsigned long long)instructions,
          (unsigned long long)vector_fma, (unsigned long long)scalar_fma,
          (unsigned long long)loads, (unsigned long long)stores);
  fclose(file);
}

__attribute__((visibility("default"))) int qemu_plugin_install(qemu_plugin_id_t id,
                                                               const qemu_info_t *info, int count_,
                                                               char **arguments) {
  (void)info;
  for (int i = 0; i < count_; ++i)
    if (!strncmp(arguments[i], "out=", 4)) path = strdup(arguments[i] + 4);
  qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
  qemu_plugin_register_atexit_cb(id, ended, NULL);
  return 0;
}
