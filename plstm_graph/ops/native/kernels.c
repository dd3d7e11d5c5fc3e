/* Kernels for CPUs, compiled when the package is installed: see __init__.py. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef __linux__
#include <sys/mman.h>
#endif

/* States of a large graph are read all over: with large pages the processor finds them sooner. */
static void large_pages(void *start, int64_t bytes) {
#ifdef MADV_HUGEPAGE
    const uintptr_t page = 1 << 21;
    uintptr_t first = ((uintptr_t)start + page - 1) & ~(page - 1);
    uintptr_t last = ((uintptr_t)start + bytes) & ~(page - 1);
    if (first < last) madvise((void *)first, last - first, MADV_HUGEPAGE);
#else
    (void)start, (void)bytes;
#endif
}

#define REAL float
#define NAME(x) x##_f32
#include "vector.c"
#include "gating.c"
#include "scan.c"
#include "semiring.c"
#include "walk.c"
#include "cells.c"
#include "dense.c"
#include "nodes.c"
#include "sweep.c"
#undef REAL
#undef NAME

#define REAL double
#define NAME(x) x##_f64
#include "vector.c"
#include "gating.c"
#include "scan.c"
#include "semiring.c"
#include "walk.c"
#include "cells.c"
#include "dense.c"
#include "nodes.c"
#include "sweep.c"
#undef REAL
#undef NAME
