/* Short vectors: included once for each REAL, before the kernels. */

/* y += a x, n elements. */
static inline void NAME(axpy)(REAL *restrict y, REAL a, const REAL *restrict x, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) y[i] += a * x[i];
}

/* Eight numbers and four, at any address; gcc and clang know how to calculate with them. */
typedef REAL NAME(eight) __attribute__((vector_size(8 * sizeof(REAL)), aligned(sizeof(REAL))));
typedef REAL NAME(four) __attribute__((vector_size(4 * sizeof(REAL)), aligned(sizeof(REAL))));

static inline NAME(eight) NAME(get)(const REAL *x) { return *(const NAME(eight) *)x; }

/* Their sum in registers: compilers do a loop's over memory, one number after the other. */
static inline REAL NAME(sum)(NAME(eight) x) {
    NAME(four) half[2];
    memcpy(half, &x, sizeof(x));
    half[0] += half[1];
    return (half[0][0] + half[0][2]) + (half[0][1] + half[0][3]);
}

static inline REAL NAME(dot)(const REAL *x, const REAL *y, int64_t n) {
    NAME(eight) a = {0}, b = {0}; /* two: one would wait for itself */
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) {
        a += NAME(get)(x + i) * NAME(get)(y + i);
        b += NAME(get)(x + i + 8) * NAME(get)(y + i + 8);
    }
    for (; i + 8 <= n; i += 8) a += NAME(get)(x + i) * NAME(get)(y + i);
    REAL rest = 0;
    for (; i < n; i++) rest += x[i] * y[i];
    return NAME(sum)(a + b) + rest;
}
