/* Start a program the way that every glibc knows. Since 2.34 programs are linked to a newer version
 * of __libc_start_main, which older systems lack; link with -Wl,--wrap=__libc_start_main. No
 * constructors of the program itself are run on those: C has none. */
#if defined(__x86_64__)
#define OLDEST "GLIBC_2.2.5"
#else
#define OLDEST "GLIBC_2.17"
#endif
typedef void (*Hook)(void);
typedef int (*Main)(int, char **, char **);

int sepify_old_start(Main main, int count, char **arguments, Hook init, Hook fini, Hook loader,
                     void *stack);
__asm__(".symver sepify_old_start, __libc_start_main@" OLDEST);

int __wrap___libc_start_main(Main main, int count, char **arguments, Hook init, Hook fini,
                             Hook loader, void *stack);

int __wrap___libc_start_main(Main main, int count, char **arguments, Hook init, Hook fini,
                             Hook loader, void *stack) {
  return sepify_old_start(main, count, arguments, init, fini, loader, stack);
}
