/* Short vectors: included once for each REAL, before the kernels. */

/* y += a x, n elements. */
static inline void NAME(axpy)(REAL *restrict y, REAL a, const REAL *restrict x, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) y[i] += a * x[i];
}

static inline REAL NAME(dot)(const REAL *x, const REAL *y, int64_t n) {
    REAL sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++) sum += x[i] * y[i];
    return sum;
}
