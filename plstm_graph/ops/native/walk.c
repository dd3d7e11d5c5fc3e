/* The layer by states, forward and backward: see walk.py. Included once for each REAL.
 *
 * A unit of work is one part of the batch and one head, number part * heads + head. Its edges stand
 * in topological order of the original graph; the line edges out of the one at place i are
 * line_ptr[i] .. line_ptr[i + 1], and lead to the places next[]. Columns of V never mix, so the
 * states of all edges of a part, [edges, K, W], are made for W columns at a time, the last ones
 * filled up with zeros. W is a constant in all inner loops, which the compiler unrolls.
 */

#define INLINE static inline __attribute__((always_inline))
#define EACH(j) for (int64_t j = 0; j < W / 8; j++)

/* Columns [c, c + w) of a row, filled up with zeros. */
INLINE void NAME(load)(NAME(eight) *to, const REAL *row, int64_t c, int64_t w, int64_t W) {
    REAL *x = (REAL *)to;
    for (int64_t j = 0; j < W; j++) x[j] = j < w ? row[c + j] : 0;
}

/* Columns [c, c + w) of a row += x. */
INLINE void NAME(add)(REAL *row, const NAME(eight) *x, int64_t c, int64_t w) {
    for (int64_t j = 0; j < w; j++) row[c + j] += ((const REAL *)x)[j];
}

/* State e = gate_e left_node(e) right_node(e)^T. */
INLINE void NAME(outer)(REAL *states, const REAL *left, const REAL *right, const REAL *gate,
                        const int64_t *edge, const int64_t *node, int64_t edges, int64_t heads,
                        int64_t h, int64_t K, int64_t V, int64_t c, int64_t w, int64_t W) {
    NAME(eight) y[4];
    for (int64_t i = 0; i < edges; i++) {
        int64_t e = edge[i], n = node[e] * heads + h;
        REAL s = gate[e * heads + h];
        NAME(load)(y, right + n * V, c, w, W);
        for (int64_t k = 0; k < K; k++) {
            REAL a = s * left[n * K + k];
            NAME(eight) *row = (NAME(eight) *)(states + (i * K + k) * W);
            EACH(j) row[j] = a * y[j];
        }
    }
}

/* states = (I - T)^-1 states along the order, or against it. */
static void NAME(pass)(REAL *states, const REAL *transition, const int64_t *line_ptr,
                       const int64_t *line, const int64_t *next, int64_t start, int64_t edges,
                       int64_t heads, int64_t h, int64_t size, int64_t against) {
    for (int64_t p = 0; p < edges; p++) {
        int64_t i = against ? edges - 1 - p : p;
        REAL *row = states + i * size;
        for (int64_t l = line_ptr[start + i]; l < line_ptr[start + i + 1]; l++) {
            REAL t = transition[line[l] * heads + h], *other = states + (next[l] - start) * size;
            if (against)
                NAME(axpy)(row, t, other, size);
            else
                NAME(axpy)(other, t, row, size);
        }
    }
}

/* out_dst(e) += M_e C_e^T q_dst(e). */
INLINE void NAME(read)(const REAL *states, const REAL *query, const REAL *mark, REAL *out,
                       const int64_t *edge, const int64_t *dst, int64_t edges, int64_t heads,
                       int64_t h, int64_t K, int64_t V, int64_t c, int64_t w, int64_t W) {
    for (int64_t i = 0; i < edges; i++) {
        int64_t e = edge[i], n = dst[e] * heads + h;
        REAL m = mark[e * heads + h];
        NAME(eight) sum[4] = {0};
        for (int64_t k = 0; k < K; k++) {
            REAL a = m * query[n * K + k];
            const NAME(eight) *row = (const NAME(eight) *)(states + (i * K + k) * W);
            EACH(j) sum[j] += a * row[j];
        }
        NAME(add)(out + n * V, sum, c, w);
    }
}

/* The terms of one edge's state and adjoint state, see states_backward in levelwise.py. */
INLINE void NAME(read_back)(const REAL *states, const REAL *adjoint, const REAL *grad,
                            const REAL *query, const REAL *key, const REAL *value,
                            const REAL *source, const REAL *mark, REAL *d_query, REAL *d_key,
                            REAL *d_value, REAL *d_source, REAL *d_mark, const int64_t *edge,
                            const int64_t *src, const int64_t *dst, int64_t edges, int64_t heads,
                            int64_t h, int64_t K, int64_t V, int64_t c, int64_t w, int64_t W) {
    NAME(eight) g[4], v[4];
    for (int64_t i = 0; i < edges; i++) {
        int64_t e = edge[i], s = src[e] * heads + h, d = dst[e] * heads + h;
        REAL m = mark[e * heads + h], gate = source[e * heads + h], dm = 0, ds = 0;
        NAME(eight) sum[4] = {0};
        NAME(load)(g, grad + d * V, c, w, W);
        NAME(load)(v, value + s * V, c, w, W);
        for (int64_t k = 0; k < K; k++) {
            const NAME(eight) *a = (const NAME(eight) *)(states + (i * K + k) * W);
            const NAME(eight) *b = (const NAME(eight) *)(adjoint + (i * K + k) * W);
            REAL q_k = query[d * K + k], k_k = key[s * K + k], x = gate * k_k;
            NAME(eight) for_g = {0}, for_v = {0};
            EACH(j) {
                for_g += a[j] * g[j];
                for_v += b[j] * v[j];
                sum[j] += x * b[j];
            }
            REAL cg = NAME(sum)(for_g), av = NAME(sum)(for_v);
            dm += q_k * cg;
            ds += k_k * av;
            d_query[d * K + k] += m * cg;
            d_key[s * K + k] += gate * av;
        }
        d_mark[e * heads + h] += dm;
        d_source[e * heads + h] += ds;
        NAME(add)(d_value + s * V, sum, c, w);
    }
}

/* The call with W as a constant: 8, 16, 24 or 32. */
#define WITH(W, function, ...)                        \
    switch (W) {                                      \
        case 8: NAME(function)(__VA_ARGS__, 8); break;   \
        case 16: NAME(function)(__VA_ARGS__, 16); break; \
        case 24: NAME(function)(__VA_ARGS__, 24); break; \
        default: NAME(function)(__VA_ARGS__, 32);        \
    }

/* h_n = D_n (q_n . k_n) v_n + sum over e into n of M_e C_e^T q_n. */
void NAME(walk_forward)(const REAL *query, const REAL *key, const REAL *value,
                        const REAL *source, const REAL *transition, const REAL *mark,
                        const REAL *direct, REAL *out, REAL *work, int64_t first, int64_t last,
                        int64_t heads, int64_t K, int64_t V, int64_t W, int64_t reversed,
                        const int64_t *node_ptr, const int64_t *nodes, const int64_t *edge_ptr,
                        const int64_t *edges, const int64_t *line_ptr, const int64_t *line,
                        const int64_t *next, const int64_t *src, const int64_t *dst) {
    for (int64_t u = first; u < last; u++) {
        int64_t part = u / heads, h = u % heads;
        int64_t start = edge_ptr[part], count = edge_ptr[part + 1] - start;
        const int64_t *edge = edges + start;
        for (int64_t i = node_ptr[part]; i < node_ptr[part + 1]; i++) {
            int64_t n = nodes[i] * heads + h;
            REAL a = direct[n] * NAME(dot)(query + n * K, key + n * K, K);
            for (int64_t j = 0; j < V; j++) out[n * V + j] = a * value[n * V + j];
        }
        for (int64_t c = 0; c < V && count; c += W) {
            int64_t w = V - c < W ? V - c : W;
            WITH(W, outer, work, key, value, source, edge, src, count, heads, h, K, V, c, w)
            NAME(pass)(work, transition, line_ptr, line, next, start, count, heads, h, K * W,
                       reversed);
            WITH(W, read, work, query, mark, out, edge, dst, count, heads, h, K, V, c, w)
        }
    }
}

/* The gradients of the seven inputs, all of them set to zero before, from that of the output. */
void NAME(walk_backward)(const REAL *grad, const REAL *query, const REAL *key, const REAL *value,
                         const REAL *source, const REAL *transition, const REAL *mark,
                         const REAL *direct, REAL *d_query, REAL *d_key, REAL *d_value,
                         REAL *d_source, REAL *d_transition, REAL *d_mark, REAL *d_direct,
                         REAL *work, int64_t first, int64_t last, int64_t heads, int64_t K,
                         int64_t V, int64_t W, int64_t reversed, const int64_t *node_ptr,
                         const int64_t *nodes, const int64_t *edge_ptr, const int64_t *edges,
                         const int64_t *line_ptr, const int64_t *line, const int64_t *next,
                         const int64_t *src, const int64_t *dst) {
    for (int64_t u = first; u < last; u++) {
        int64_t part = u / heads, h = u % heads;
        int64_t start = edge_ptr[part], count = edge_ptr[part + 1] - start, size = K * W;
        const int64_t *edge = edges + start;
        REAL *states = work, *adjoint = work + count * size;
        for (int64_t i = node_ptr[part]; i < node_ptr[part + 1]; i++) {
            int64_t n = nodes[i] * heads + h;
            const REAL *q = query + n * K, *k = key + n * K, *v = value + n * V;
            const REAL *g = grad + n * V;
            REAL qk = NAME(dot)(q, k, K), gv = NAME(dot)(g, v, V);
            d_direct[n] = qk * gv;
            NAME(axpy)(d_query + n * K, direct[n] * gv, k, K);
            NAME(axpy)(d_key + n * K, direct[n] * gv, q, K);
            NAME(axpy)(d_value + n * V, direct[n] * qk, g, V);
        }
        for (int64_t c = 0; c < V && count; c += W) {
            int64_t w = V - c < W ? V - c : W;
            WITH(W, outer, states, key, value, source, edge, src, count, heads, h, K, V, c, w)
            NAME(pass)(states, transition, line_ptr, line, next, start, count, heads, h, size,
                       reversed);
            WITH(W, outer, adjoint, query, grad, mark, edge, dst, count, heads, h, K, V, c, w)
            NAME(pass)(adjoint, transition, line_ptr, line, next, start, count, heads, h, size,
                       !reversed);
            WITH(W, read_back, states, adjoint, grad, query, key, value, source, mark, d_query,
                 d_key, d_value, d_source, d_mark, edge, src, dst, count, heads, h, K, V, c, w)
            for (int64_t i = 0; i < count; i++)
                for (int64_t l = line_ptr[start + i]; l < line_ptr[start + i + 1]; l++) {
                    int64_t o = next[l] - start, in = reversed ? o : i, to = reversed ? i : o;
                    d_transition[line[l] * heads + h] +=
                        NAME(dot)(states + in * size, adjoint + to * size, size);
                }
        }
    }
}

#undef INLINE
#undef EACH
#undef WITH
