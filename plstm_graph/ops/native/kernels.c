/* Kernels for CPUs, compiled when the package is installed: see __init__.py. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define REAL float
#define NAME(x) x##_f32
#include "vector.c"
#include "gating.c"
#include "scan.c"
#include "walk.c"
#include "dense.c"
#include "nodes.c"
#undef REAL
#undef NAME

#define REAL double
#define NAME(x) x##_f64
#include "vector.c"
#include "gating.c"
#include "scan.c"
#include "walk.c"
#include "dense.c"
#include "nodes.c"
#undef REAL
#undef NAME
