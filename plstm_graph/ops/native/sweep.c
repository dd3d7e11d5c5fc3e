/* The nonlinear cells of sweep.py, forward and backward: included once for each REAL.
 *
 * A unit of work is one part of the batch and one head, number part * heads + head. The nodes of a
 * part stand in topological order; source[p] is the place of the node where the edge at p starts,
 * in_ptr the offsets of the edges into each place. The gates of a node are (i, o, z, f), d numbers
 * each. Of each node is kept the weight of its own input (softmax cell: alpha_0, otherwise
 * sigma(i)), sigma(o), tanh(z) and c; of each edge the weight of the state that it brings and, in
 * the softmax cell, 1 - sigma(f).
 */

#define INLINE static inline __attribute__((always_inline))
#define SINGLE (sizeof(REAL) == 4)
#define EACH(c, n) _Pragma("omp simd") for (int64_t c = 0; c < (n); c++)
#define PUT(y, x) (*(NAME(eight) *)(y) = (x))
#define SOFTMAX 1 /* the cell; 0 is the child-sum LSTM */

typedef __typeof__(__builtin_choose_expr(SINGLE, (int32_t)0, (int64_t)0)) NAME(sweep_bits);

/* The functions of the C library are calls, one number at a time; these have no branches, so that
 * the compiler makes vectors of the loops over them. */

/* e^x for x <= 0, at least the smallest normal numbers: 2^k times the series of the rest, whose
 * argument is at most log(2) / 2. Adding 1.5 * 2^23 (or 2^52) leaves k in the lowest bits. */
INLINE REAL NAME(sweep_exp)(REAL x) {
    const REAL low = SINGLE ? -87 : -708, magic = SINGLE ? 12582912. : 6755399441055744.;
    const REAL high_part = SINGLE ? 0.693359375 : 0x1.62e42feep-1;
    const REAL low_part = SINGLE ? -2.12194440054690583e-4 : 1.90821492927058770002e-10;
    REAL y = x < low ? low : x, t = y * (REAL)1.44269504088896340736 + magic, k = t - magic;
    REAL r = (y - k * high_part) - k * low_part, p = 1 / 5040.;
    if (!SINGLE) {
        p = (REAL)(1 / 6227020800.) * r + (REAL)(1 / 479001600.);
        p = (p * r + (REAL)(1 / 39916800.)) * r + (REAL)(1 / 3628800.);
        p = (p * r + (REAL)(1 / 362880.)) * r + (REAL)(1 / 40320.);
        p = p * r + (REAL)(1 / 5040.);
    }
    p = (p * r + (REAL)(1 / 720.)) * r + (REAL)(1 / 120.);
    p = (p * r + (REAL)(1 / 24.)) * r + (REAL)(1 / 6.);
    p = ((p * r + (REAL)0.5) * r + 1) * r + 1;
    NAME(sweep_bits) a, b;
    memcpy(&a, &p, sizeof(REAL));
    memcpy(&b, &t, sizeof(REAL));
    a += b * ((NAME(sweep_bits))1 << (SINGLE ? 23 : 52));
    memcpy(&p, &a, sizeof(REAL));
    return p + (y - y); /* not a number stays so */
}

/* log(x) for x >= 1: the exponent and, with m in [sqrt(1/2), sqrt(2)], 2 artanh((m - 1) / (m + 1)).
 */
INLINE REAL NAME(sweep_log)(REAL x) {
    const REAL magic = SINGLE ? 12582912. : 6755399441055744., root = 0.70710678118654752440;
    NAME(sweep_bits) a, b, c;
    memcpy(&a, &x, sizeof(REAL));
    memcpy(&b, &root, sizeof(REAL));
    memcpy(&c, &magic, sizeof(REAL));
    NAME(sweep_bits) k = (a - b) >> (SINGLE ? 23 : 52);
    a -= k * ((NAME(sweep_bits))1 << (SINGLE ? 23 : 52));
    c += k;
    REAL m, e;
    memcpy(&m, &a, sizeof(REAL));
    memcpy(&e, &c, sizeof(REAL));
    REAL s = (m - 1) / (m + 1), z = s * s, p = 1 / 9.;
    if (!SINGLE) {
        p = (REAL)(1 / 21.) * z + (REAL)(1 / 19.);
        p = (p * z + (REAL)(1 / 17.)) * z + (REAL)(1 / 15.);
        p = (p * z + (REAL)(1 / 13.)) * z + (REAL)(1 / 11.);
        p = p * z + (REAL)(1 / 9.);
    }
    p = (p * z + (REAL)(1 / 7.)) * z + (REAL)(1 / 5.);
    p = (p * z + (REAL)(1 / 3.)) * z + 1;
    return (e - magic) * (REAL)0.69314718055994530942 + 2 * s * p + (x - x);
}

INLINE REAL NAME(sweep_sigmoid)(REAL x) {
    REAL u = NAME(sweep_exp)(x < 0 ? x : -x), y = 1 / (1 + u);
    return y * (x < 0 ? u : 1);
}

INLINE REAL NAME(sweep_tanh)(REAL x) {
    REAL u = NAME(sweep_exp)(2 * (x < 0 ? x : -x)), y = (1 - u) / (1 + u);
    return x < 0 ? -y : y;
}

/* y = A^T x for A [rows, columns]: sums over rows, each row read once. */
static void NAME(sweep_product)(REAL *restrict y, const REAL *restrict A, const REAL *restrict x,
                          int64_t rows, int64_t columns) {
    int64_t c = 0;
    for (; c + 32 <= columns; c += 32) {
        /* Sums by name, since arrays would stay in memory; two each: one would wait for itself. */
        NAME(eight) a = {0}, b = {0}, e = {0}, f = {0}, g = {0}, h = {0}, k = {0}, l = {0};
        int64_t i = 0;
        for (; i + 2 <= rows; i += 2) {
            const REAL *row = A + i * columns + c, *next = row + columns, u = x[i], v = x[i + 1];
            a += u * NAME(get)(row), b += u * NAME(get)(row + 8);
            e += u * NAME(get)(row + 16), f += u * NAME(get)(row + 24);
            g += v * NAME(get)(next), h += v * NAME(get)(next + 8);
            k += v * NAME(get)(next + 16), l += v * NAME(get)(next + 24);
        }
        if (i < rows) {
            const REAL *row = A + i * columns + c, u = x[i];
            a += u * NAME(get)(row), b += u * NAME(get)(row + 8);
            e += u * NAME(get)(row + 16), f += u * NAME(get)(row + 24);
        }
        a += g, b += h, e += k, f += l;
        PUT(y + c, a), PUT(y + c + 8, b), PUT(y + c + 16, e), PUT(y + c + 24, f);
    }
    for (; c + 8 <= columns; c += 8) {
        NAME(eight) a = {0}, b = {0}, e = {0}, f = {0};
        int64_t i = 0;
        for (; i + 4 <= rows; i += 4) {
            const REAL *row = A + i * columns + c;
            a += x[i] * NAME(get)(row), b += x[i + 1] * NAME(get)(row + columns);
            e += x[i + 2] * NAME(get)(row + 2 * columns);
            f += x[i + 3] * NAME(get)(row + 3 * columns);
        }
        for (; i < rows; i++) a += x[i] * NAME(get)(A + i * columns + c);
        a = (a + b) + (e + f);
        PUT(y + c, a);
    }
    for (; c < columns; c++) {
        REAL sum = 0;
        for (int64_t i = 0; i < rows; i++) sum += x[i] * A[i * columns + c];
        y[c] = sum;
    }
}

/* gates [N, heads, 4, d], weight [heads, d, 4 d], edge [E, heads, 4, d] where has_edge; out
 * [N, heads, d], kept [N, heads, 4, d], edge_kept [E, heads, 1 or 2, d] in the order of source. */
void NAME(sweep_forward)(const REAL *gates, const REAL *weight, const REAL *edge, REAL *out,
                         REAL *kept, REAL *edge_kept, REAL *work, int64_t first, int64_t last,
                         int64_t heads, int64_t d, int64_t cell, int64_t has_edge, int64_t longest,
                         const int64_t *node_ptr, const int64_t *node, const int64_t *in_ptr,
                         const int64_t *source, const int64_t *row, const int64_t *followed) {
    int64_t each = (cell == SOFTMAX ? 2 : 1) * d;
    REAL *bring = work, *size = work + longest * 4 * d; /* R h and the logarithm of n, by place */
    REAL *pre = size + longest * d, *most = pre + 3 * d, *total = most + d;
    for (int64_t unit = first; unit < last; unit++) {
        int64_t h = unit % heads, start = node_ptr[unit / heads];
        for (int64_t i = start; i < node_ptr[unit / heads + 1]; i++) {
            int64_t n = node[i] * heads + h, from = in_ptr[i], to = in_ptr[i + 1];
            const REAL *g = gates + n * 4 * d;
            REAL *k = kept + n * 4 * d, *c = k + 3 * d, *log_n = size + (i - start) * d;
            memset(pre, 0, 3 * d * sizeof(REAL));
            for (int64_t p = from; p < to; p++) {
                const REAL *r = bring + (source[p] - start) * 4 * d;
                EACH(j, 3 * d) pre[j] += r[j];
                if (has_edge) {
                    const REAL *e = edge + (row[p] * heads + h) * 4 * d;
                    EACH(j, 3 * d) pre[j] += e[j];
                }
            }
            REAL scale = cell == SOFTMAX && to > from ? 1 / (REAL)(to - from) : 1;
            EACH(j, 3 * d) pre[j] = g[j] + scale * pre[j];
            EACH(j, d) k[d + j] = NAME(sweep_sigmoid)(pre[d + j]);
            EACH(j, d) k[2 * d + j] = NAME(sweep_tanh)(pre[2 * d + j]);
            if (cell == SOFTMAX) {
                EACH(j, d) most[j] = pre[j];
            } else {
                EACH(j, d) {
                    k[j] = NAME(sweep_sigmoid)(pre[j]);
                    c[j] = k[j] * k[2 * d + j];
                }
            }
            for (int64_t p = from; p < to; p++) {
                const REAL *r = bring + (source[p] - start) * 4 * d + 3 * d;
                const REAL *before = size + (source[p] - start) * d;
                REAL *w = edge_kept + (p * heads + h) * each;
                EACH(j, d) total[j] = g[3 * d + j] + r[j];
                if (has_edge) {
                    const REAL *e = edge + (row[p] * heads + h) * 4 * d + 3 * d;
                    EACH(j, d) total[j] += e[j];
                }
                if (cell == SOFTMAX) {
                    EACH(j, d) {
                        REAL f = total[j], u = NAME(sweep_exp)(f < 0 ? f : -f), y = 1 / (1 + u);
                        REAL a = (f < 0 ? f : 0) - NAME(sweep_log)(1 + u) + before[j];
                        w[j] = a;
                        w[d + j] = y * (f < 0 ? 1 : u);
                        most[j] = most[j] < a ? a : most[j];
                    }
                } else {
                    const REAL *c_in = kept + (node[source[p]] * heads + h) * 4 * d + 3 * d;
                    EACH(j, d) {
                        w[j] = NAME(sweep_sigmoid)(total[j]);
                        c[j] += w[j] * c_in[j];
                    }
                }
            }
            REAL *y = out + n * d;
            if (cell == SOFTMAX) {
                EACH(j, d) {
                    k[j] = total[j] = NAME(sweep_exp)(pre[j] - most[j]);
                    c[j] = k[j] * k[2 * d + j];
                }
                for (int64_t p = from; p < to; p++) {
                    const REAL *c_in = kept + (node[source[p]] * heads + h) * 4 * d + 3 * d;
                    REAL *w = edge_kept + (p * heads + h) * each;
                    EACH(j, d) {
                        w[j] = NAME(sweep_exp)(w[j] - most[j]);
                        total[j] += w[j];
                        c[j] += w[j] * c_in[j];
                    }
                }
                EACH(j, d) {
                    log_n[j] = most[j] + NAME(sweep_log)(total[j]);
                    total[j] = 1 / total[j];
                    k[j] *= total[j];
                    c[j] *= total[j];
                    y[j] = k[d + j] * c[j];
                }
                for (int64_t p = from; p < to; p++) {
                    REAL *w = edge_kept + (p * heads + h) * each;
                    EACH(j, d) w[j] *= total[j];
                }
            } else {
                EACH(j, d) y[j] = k[d + j] * NAME(sweep_tanh)(c[j]);
            }
            if (followed[i])
                NAME(sweep_product)
            (bring + (i - start) * 4 * d, weight + h * 4 * d * d, y, d, 4 * d);
        }
    }
}

/* weight [heads, 4 d, d]; the gradients of gates, of R h [N, heads, 4, d] and of the edges' terms
 * from that of the output. */
void NAME(sweep_backward)(const REAL *grad, const REAL *weight, const REAL *kept,
                          const REAL *edge_kept, REAL *d_gates, REAL *d_bring, REAL *d_edge,
                          REAL *work, int64_t first, int64_t last, int64_t heads, int64_t d,
                          int64_t cell, int64_t has_edge, int64_t longest,
                          const int64_t *node_ptr, const int64_t *node, const int64_t *in_ptr,
                          const int64_t *source, const int64_t *row, const int64_t *followed) {
    int64_t each = (cell == SOFTMAX ? 2 : 1) * d;
    REAL *d_c = work, *d_size = work + longest * d; /* of c and of the logarithm of n, by place */
    REAL *d_h = d_size + longest * d, *d_f = d_h + d;
    for (int64_t unit = first; unit < last; unit++) {
        int64_t h = unit % heads, start = node_ptr[unit / heads], end = node_ptr[unit / heads + 1];
        memset(work, 0, 2 * longest * d * sizeof(REAL));
        for (int64_t i = start; i < end; i++)
            memset(d_bring + (node[i] * heads + h) * 4 * d, 0, 4 * d * sizeof(REAL));
        for (int64_t i = end - 1; i >= start; i--) {
            int64_t n = node[i] * heads + h, from = in_ptr[i], to = in_ptr[i + 1];
            const REAL *k = kept + n * 4 * d, *c = k + 3 * d, *g = grad + n * d;
            REAL *dg = d_gates + n * 4 * d, *dc = d_c + (i - start) * d;
            const REAL *ds = d_size + (i - start) * d;
            if (followed[i])
                NAME(sweep_product)(d_h, weight + h * 4 * d * d, d_bring + n * 4 * d, 4 * d, d);
            else
                memset(d_h, 0, d * sizeof(REAL));
            if (cell == SOFTMAX) {
                EACH(j, d) {
                    REAL dh = d_h[j] + g[j], o = k[d + j], z = k[2 * d + j];
                    dc[j] += dh * o;
                    dg[j] = k[j] * (dc[j] * (z - c[j]) + ds[j]);
                    dg[d + j] = dh * c[j] * o * (1 - o);
                    dg[2 * d + j] = dc[j] * k[j] * (1 - z * z);
                    dg[3 * d + j] = 0;
                }
            } else {
                EACH(j, d) {
                    REAL dh = d_h[j] + g[j], o = k[d + j], z = k[2 * d + j], t;
                    t = NAME(sweep_tanh)(c[j]);
                    dc[j] += dh * o * (1 - t * t);
                    dg[j] = dc[j] * z * k[j] * (1 - k[j]);
                    dg[d + j] = dh * t * o * (1 - o);
                    dg[2 * d + j] = dc[j] * k[j] * (1 - z * z);
                    dg[3 * d + j] = 0;
                }
            }
            REAL scale = cell == SOFTMAX && to > from ? 1 / (REAL)(to - from) : 1;
            for (int64_t p = from; p < to; p++) {
                int64_t s = source[p] - start, n_in = node[source[p]] * heads + h;
                const REAL *w = edge_kept + (p * heads + h) * each;
                const REAL *c_in = kept + n_in * 4 * d + 3 * d;
                REAL *dr = d_bring + n_in * 4 * d, *dc_in = d_c + s * d, *ds_in = d_size + s * d;
                if (cell == SOFTMAX) {
                    EACH(j, d) {
                        REAL da = w[j] * (dc[j] * (c_in[j] - c[j]) + ds[j]);
                        ds_in[j] += da;
                        d_f[j] = da * w[d + j];
                    }
                } else {
                    EACH(j, d) d_f[j] = dc[j] * c_in[j] * w[j] * (1 - w[j]);
                }
                EACH(j, d) {
                    dc_in[j] += w[j] * dc[j];
                    dg[3 * d + j] += d_f[j];
                    dr[3 * d + j] += d_f[j];
                }
                EACH(j, 3 * d) dr[j] += scale * dg[j];
                if (has_edge) {
                    REAL *de = d_edge + (row[p] * heads + h) * 4 * d;
                    EACH(j, 3 * d) de[j] = scale * dg[j];
                    EACH(j, d) de[3 * d + j] = d_f[j];
                }
            }
        }
    }
}

#undef INLINE
#undef SINGLE
#undef EACH
#undef PUT
#undef SOFTMAX
