// Libraries opened at run time, on systems with dlopen. Including this instead of dlfcn.h keeps the addon loadable on
// an older glibc.
#pragma once

#include <dlfcn.h>
#include <stdlib.h>

#if defined(__GLIBC__)
// glibc 2.34 gave these functions new symbol versions without changing them. The linker takes the newest version, with
// which the addon would not load on an older glibc. LILY_FIRST_GLIBC is the version of the first glibc for the
// processor.
#if defined(__x86_64__)
#define LILY_FIRST_GLIBC "GLIBC_2.2.5"
#elif defined(__aarch64__)
#define LILY_FIRST_GLIBC "GLIBC_2.17"
#endif
#ifdef LILY_FIRST_GLIBC
__asm__(".symver dladdr,dladdr@" LILY_FIRST_GLIBC);
__asm__(".symver dlclose,dlclose@" LILY_FIRST_GLIBC);
__asm__(".symver dlerror,dlerror@" LILY_FIRST_GLIBC);
__asm__(".symver dlopen,dlopen@" LILY_FIRST_GLIBC);
__asm__(".symver dlsym,dlsym@" LILY_FIRST_GLIBC);
#endif
#endif
