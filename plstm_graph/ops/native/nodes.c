/* The layer with factored transitions, forward and backward: see forms/walk.py for the derivation.
 * Included once for each REAL.
 *
 * A unit of work is one part of the batch and one head. States are sums over the edges that enter a
 * node, so no line edge is ever looked at. The nodes of a part stand in topological order; `into`
 * and `from` are the along edges that enter and leave each of them. In a two-way graph the against
 * edges are the twins of these, and come first. As in walk.c, states have W columns at a time:
 * forward [K, W], columns of V, backward [V, W], columns of K.
 */

#define FAR (1 << 18) /* elements of states that leave the cache */
#define EIGHT(x) (*(NAME(eight) *)(x))

typedef struct {
    NAME(nodes) query, key, value, grad;
    const REAL *source, *a, *b, *mark;
    REAL *out, *d_query, *d_key, *d_value, *d_source, *d_a, *d_b, *d_mark;
    REAL *before, *states, *d_states, *d_before; /* Z^0, Y, dY, dZ^0 [nodes, rows, W] */
    const int64_t *node, *in_ptr, *into, *out_ptr, *from, *src, *dst, *twin, *place;
    int64_t nodes, heads, K, V, two_way, far, c, w;
} NAME(part);

/* What an edge e from node s to node d, and in a two-way graph its twin, are made of. */
typedef struct {
    int64_t edge, gate, s, d; /* gate: row of the edge's gates */
    REAL a, b, source, mark;
} NAME(edge);

INLINE NAME(edge) NAME(edge_of)(const NAME(part) *u, int64_t e) {
    int64_t gate = e * u->heads;
    return (NAME(edge)){e, gate, u->src[e], u->dst[e], u->a[gate], u->b[gate], u->source[gate],
                        u->mark[gate]};
}

INLINE REAL *NAME(at)(const NAME(part) *u, REAL *states, int64_t n, int64_t size) {
    return states + u->place[n] * size;
}

#define FETCH(x) __builtin_prefetch(x)

/* Ask for what the edges behind place p of a list are made of: in a large part that is far from the
 * cache. `state` of the node at one end is read, `grads` are written. */
INLINE void NAME(fetch)(const NAME(part) *u, const int64_t *list, int64_t p, int64_t last,
                        const REAL *states, const int64_t *end, int64_t size, int grads) {
    if (p + 6 < last) {
        FETCH(u->src + list[p + 6]);
        FETCH(u->dst + list[p + 6]);
    }
    if (p + 3 < last) {
        int64_t e = list[p + 3], gate = e * u->heads, s = u->src[e], d = u->dst[e];
        FETCH(u->a + gate);
        FETCH(u->b + gate);
        FETCH(u->source + gate);
        FETCH(u->mark + gate);
        FETCH(NAME(of)(u->key, s));
        FETCH(NAME(of)(u->value, s));
        FETCH(u->place + end[e]);
        if (grads) {
            FETCH(u->d_a + gate);
            FETCH(u->d_b + gate);
            FETCH(u->d_source + gate);
            FETCH(u->d_mark + gate);
            FETCH(NAME(of)(u->query, d));
            FETCH(NAME(of)(u->grad, d));
            FETCH(u->d_query + d * u->heads * u->K);
        }
    }
    if (p + 1 < last) {
        const REAL *state = NAME(at)(u, (REAL *)states, end[list[p + 1]], size);
        for (int64_t i = 0; i < size; i += 64 / (int64_t)sizeof(REAL)) FETCH(state + i);
    }
}

/* One edge of the forward: C = b (come - at (bt back + lt rt^T)) + left right^T, into += a C,
 * sum += query^T C. The term of the twin is left out where back is NULL. */
INLINE void NAME(pull)(REAL *into, REAL a, REAL b, const REAL *come, const REAL *left,
                       const NAME(eight) *right, const REAL *query, NAME(eight) *sum, REAL at,
                       REAL bt, const REAL *back, const REAL *lt, const NAME(eight) *rt,
                       int64_t rows, int64_t W, int reads, int turns) {
    for (int64_t r = 0; r < rows; r++)
        EACH(j) {
            int64_t i = r * W + 8 * j;
            NAME(eight) x = NAME(get)(come + i);
            if (turns) x -= at * (bt * NAME(get)(back + i) + lt[r] * rt[j]);
            x = b * x + left[r] * right[j];
            EIGHT(into + i) += a * x;
            if (reads) sum[j] += query[r] * x;
        }
}

/* All node sums of a unit: those of against edges (before), then with those of along edges
 * (states). Forward they are read: left is the key, right the value; backward left is the value. */
INLINE void NAME(sums)(const NAME(part) *u, NAME(nodes) left, NAME(nodes) right, int reads,
                       int64_t rows, int64_t W) {
    int64_t size = rows * W;
    if (u->two_way)
        for (int64_t i = u->nodes - 1; i >= 0; i--) {
            int64_t n = u->node[i];
            REAL *z = u->before + i * size;
            NAME(eight) x[4], all[4] = {0};
            memset(z, 0, size * sizeof(REAL));
            for (int64_t p = u->out_ptr[i]; p < u->out_ptr[i + 1]; p++) {
                int64_t t = u->twin[u->from[p]];
                if (t < 0) continue;
                NAME(edge) e = NAME(edge_of)(u, t);
                NAME(eight) sum[4] = {0};
                NAME(load)(x, e.source, NAME(of)(right, e.s), u->c, u->w, W);
                NAME(pull)(z, e.a, e.b, NAME(at)(u, u->before, e.s, size), NAME(of)(left, e.s), x,
                           NAME(of)(u->query, n), sum, 0, 0, 0, 0, 0, rows, W, reads, 0);
                if (reads) EACH(j) all[j] += e.mark * sum[j];
            }
            if (reads) NAME(add)(u->out + n * u->heads * u->V, 1, all, u->c, u->w, W);
        }
    for (int64_t i = 0; i < u->nodes; i++) {
        int64_t n = u->node[i];
        REAL *y = u->states + i * size, *z = u->before + i * size;
        NAME(eight) x[4], xt[4], all[4] = {0};
        if (u->two_way)
            memcpy(y, z, size * sizeof(REAL));
        else
            memset(y, 0, size * sizeof(REAL));
        for (int64_t p = u->in_ptr[i]; p < u->in_ptr[i + 1]; p++) {
            NAME(edge) e = NAME(edge_of)(u, u->into[p]);
            int64_t t = u->two_way ? u->twin[e.edge] : -1;
            NAME(eight) sum[4] = {0};
            if (u->far)
                NAME(fetch)(u, u->into, p, u->in_ptr[u->nodes], u->states, u->src, size, 0);
            const REAL *come = NAME(at)(u, u->states, e.s, size), *l = NAME(of)(left, e.s);
            const REAL *q = NAME(of)(u->query, n);
            NAME(load)(x, e.source, NAME(of)(right, e.s), u->c, u->w, W);
            if (t < 0) {
                NAME(pull)(y, e.a, e.b, come, l, x, q, sum, 0, 0, 0, 0, 0, rows, W, reads, 0);
            } else {
                NAME(edge) f = NAME(edge_of)(u, t);
                NAME(load)(xt, f.source, NAME(of)(right, n), u->c, u->w, W);
                NAME(pull)(y, e.a, e.b, come, l, x, q, sum, f.a, f.b, z, NAME(of)(left, n), xt,
                           rows, W, reads, 1);
            }
            if (reads) EACH(j) all[j] += e.mark * sum[j];
        }
        if (reads) NAME(add)(u->out + n * u->heads * u->V, 1, all, u->c, u->w, W);
    }
}

/* One edge of the backward, whose state C = b in + value key^T and adjoint
 * A = grad query^T + a later come from rows of:
 *     in = come - at (bt back + vt kt^T),   later = dlater - bt' (grad_t query_t^T + at' dt').
 * An along edge has the first correction (turns 1), an against edge the second (turns 2).
 * into += b A; d_a = C . later, d_b = in . A; d_query += grad^T C, d_key += value^T A,
 * d_value += A key. */
INLINE void NAME(push)(REAL *into, REAL a, REAL b, const REAL *come, const REAL *dlater,
                       const REAL *grad, const NAME(eight) *query, const REAL *value,
                       const NAME(eight) *key, REAL at, REAL bt, const REAL *other,
                       const REAL *left, const NAME(eight) *right, NAME(eight) *d_query,
                       NAME(eight) *d_key, REAL *d_value, REAL *d_a, REAL *d_b, int64_t rows,
                       int64_t W, int turns) {
    NAME(eight) for_a = {0}, for_b = {0};
    for (int64_t r = 0; r < rows; r++) {
        NAME(eight) for_value = {0};
        REAL g = grad[r], v = value[r];
        EACH(j) {
            int64_t i = r * W + 8 * j;
            NAME(eight) in = NAME(get)(come + i), later = NAME(get)(dlater + i);
            if (turns == 1) in -= at * (bt * NAME(get)(other + i) + left[r] * right[j]);
            if (turns == 2) later -= bt * (left[r] * right[j] + at * NAME(get)(other + i));
            NAME(eight) c = b * in + v * key[j], x = g * query[j] + a * later;
            EIGHT(into + i) += b * x;
            for_a += c * later;
            for_b += in * x;
            d_query[j] += g * c;
            d_key[j] += v * x;
            for_value += x * key[j];
        }
        d_value[r] += NAME(sum)(for_value);
    }
    *d_a += NAME(sum)(for_a);
    *d_b += NAME(sum)(for_b);
}

/* The gradients of an edge's gates, and of the vectors at its ends, from those of push(). */
INLINE void NAME(gradients)(const NAME(part) *u, const NAME(edge) *e, const NAME(eight) *d_query,
                            const NAME(eight) *d_key, int64_t W) {
    u->d_mark[e->gate] += NAME(dot)(NAME(of)(u->query, e->d) + u->c, (REAL *)d_query, u->w);
    u->d_source[e->gate] += NAME(dot)(NAME(of)(u->key, e->s) + u->c, (REAL *)d_key, u->w);
    NAME(add)(u->d_query + e->d * u->heads * u->K, e->mark, d_query, u->c, u->w, W);
    NAME(add)(u->d_key + e->s * u->heads * u->K, e->source, d_key, u->c, u->w, W);
}

/* All adjoints of a unit whose sums are there. */
INLINE void NAME(adjoint_sums)(const NAME(part) *u, int64_t W) {
    int64_t size = u->V * W, step = u->heads * u->V;
    for (int64_t i = u->nodes - 1; i >= 0; i--) { /* along edges, against their order */
        int64_t n = u->node[i];
        REAL *dy = u->d_states + i * size;
        memset(dy, 0, size * sizeof(REAL));
        for (int64_t p = u->out_ptr[i]; p < u->out_ptr[i + 1]; p++) {
            NAME(edge) e = NAME(edge_of)(u, u->from[p]);
            int64_t t = u->two_way ? u->twin[e.edge] : -1;
            if (u->far)
                NAME(fetch)(u, u->from, p, u->out_ptr[u->nodes], u->d_states, u->dst, size, 1);
            NAME(eight) q[4], k[4], kt[4], d_query[4] = {0}, d_key[4] = {0};
            REAL *later = NAME(at)(u, u->d_states, e.d, size);
            NAME(load)(q, e.mark, NAME(of)(u->query, e.d), u->c, u->w, W);
            NAME(load)(k, e.source, NAME(of)(u->key, n), u->c, u->w, W);
            if (t < 0) {
                NAME(push)(dy, e.a, e.b, u->states + i * size, later, NAME(of)(u->grad, e.d), q,
                           NAME(of)(u->value, n), k, 0, 0, 0, 0, 0, d_query, d_key,
                           u->d_value + n * step, u->d_a + e.gate, u->d_b + e.gate, u->V, W, 0);
            } else {
                NAME(edge) f = NAME(edge_of)(u, t);
                NAME(load)(kt, f.source, NAME(of)(u->key, e.d), u->c, u->w, W);
                NAME(push)(dy, e.a, e.b, u->states + i * size, later, NAME(of)(u->grad, e.d), q,
                           NAME(of)(u->value, n), k, f.a, f.b, NAME(at)(u, u->before, e.d, size),
                           NAME(of)(u->value, e.d), kt, d_query, d_key, u->d_value + n * step,
                           u->d_a + e.gate, u->d_b + e.gate, u->V, W, 1);
            }
            NAME(gradients)(u, &e, d_query, d_key, W);
        }
    }
    if (!u->two_way) return;
    for (int64_t i = 0; i < u->nodes; i++) { /* against edges, along the order of the nodes */
        int64_t n = u->node[i];
        REAL *dz = u->d_before + i * size;
        memcpy(dz, u->d_states + i * size, size * sizeof(REAL));
        for (int64_t p = u->in_ptr[i]; p < u->in_ptr[i + 1]; p++) {
            int64_t t = u->twin[u->into[p]];
            if (t < 0) continue;
            NAME(edge) e = NAME(edge_of)(u, t), f = NAME(edge_of)(u, u->into[p]);
            NAME(eight) q[4], k[4], qt[4], d_query[4] = {0}, d_key[4] = {0};
            NAME(load)(q, e.mark, NAME(of)(u->query, e.d), u->c, u->w, W);
            NAME(load)(k, e.source, NAME(of)(u->key, n), u->c, u->w, W);
            NAME(load)(qt, f.mark, NAME(of)(u->query, n), u->c, u->w, W);
            NAME(push)(dz, e.a, e.b, u->before + i * size, NAME(at)(u, u->d_before, e.d, size),
                       NAME(of)(u->grad, e.d), q, NAME(of)(u->value, n), k, f.a, f.b,
                       u->d_states + i * size, NAME(of)(u->grad, n), qt, d_query, d_key,
                       u->d_value + n * step, u->d_a + e.gate, u->d_b + e.gate, u->V, W, 2);
            NAME(gradients)(u, &e, d_query, d_key, W);
        }
    }
}

#define WITH(W)                                                                       \
    APART void NAME(nodes_forward_##W)(const NAME(part) *u) {                         \
        NAME(sums)(u, u->key, u->value, 1, u->K, W);                                  \
    }                                                                                 \
    APART void NAME(nodes_backward_##W)(const NAME(part) *u) {                        \
        NAME(sums)(u, u->value, u->key, 0, u->V, W);                                  \
        NAME(adjoint_sums)(u, W);                                                     \
    }
WITH(8)
WITH(16)
WITH(24)
WITH(32)

void NAME(nodes_forward)(const REAL *query, const REAL *key, const REAL *value,
                         const REAL *source, const REAL *a, const REAL *b, const REAL *mark,
                         const REAL *direct, REAL *out, REAL *work, int64_t first, int64_t last,
                         int64_t heads, int64_t K, int64_t V, int64_t W, int64_t query_step,
                         int64_t key_step, int64_t value_step, int64_t two_way, int64_t longest,
                         const int64_t *node_ptr, const int64_t *nodes, const int64_t *place,
                         const int64_t *in_ptr, const int64_t *into, const int64_t *out_ptr,
                         const int64_t *from, const int64_t *src, const int64_t *dst,
                         const int64_t *twin) {
    large_pages(work, (1 + two_way) * longest * K * W * sizeof(REAL));
    for (int64_t i = first; i < last; i++) {
        int64_t part = i / heads, h = i % heads, start = node_ptr[part];
        NAME(part) u = {
            .query = {query + h * K, query_step}, .key = {key + h * K, key_step},
            .value = {value + h * V, value_step}, .source = source + h, .a = a + h, .b = b + h,
            .mark = mark + h, .out = out + h * V, .states = work,
            .before = work + longest * K * W, .node = nodes + start, .in_ptr = in_ptr + start,
            .into = into, .out_ptr = out_ptr + start, .from = from, .src = src, .dst = dst,
            .twin = twin, .place = place, .nodes = node_ptr[part + 1] - start, .heads = heads,
            .K = K, .V = V, .two_way = two_way,
            .far = (node_ptr[part + 1] - start) * K * W > FAR,
        };
        NAME(own)(u.out, u.query, u.key, u.value, direct + h, u.node, u.nodes, heads, K, V);
        TILES(u, u.nodes, V, W, nodes_forward)
    }
}

/* The gradients of the eight inputs from that of the output; those of gates of edges are zero
 * before. */
void NAME(nodes_backward)(const REAL *grad, const REAL *query, const REAL *key, const REAL *value,
                          const REAL *source, const REAL *a, const REAL *b, const REAL *mark,
                          const REAL *direct, REAL *d_query, REAL *d_key, REAL *d_value,
                          REAL *d_source, REAL *d_a, REAL *d_b, REAL *d_mark, REAL *d_direct,
                          REAL *work, int64_t first, int64_t last, int64_t heads, int64_t K,
                          int64_t V, int64_t W, int64_t query_step, int64_t key_step,
                          int64_t value_step, int64_t two_way, int64_t longest,
                          const int64_t *node_ptr, const int64_t *nodes, const int64_t *place,
                          const int64_t *in_ptr, const int64_t *into, const int64_t *out_ptr,
                          const int64_t *from, const int64_t *src, const int64_t *dst,
                          const int64_t *twin) {
    int64_t size = longest * V * W;
    large_pages(work, (2 + 2 * two_way) * size * sizeof(REAL));
    for (int64_t i = first; i < last; i++) {
        int64_t part = i / heads, h = i % heads, start = node_ptr[part];
        NAME(part) u = {
            .query = {query + h * K, query_step}, .key = {key + h * K, key_step},
            .value = {value + h * V, value_step}, .grad = {grad + h * V, heads * V},
            .source = source + h, .a = a + h, .b = b + h, .mark = mark + h,
            .d_query = d_query + h * K, .d_key = d_key + h * K, .d_value = d_value + h * V,
            .d_source = d_source + h, .d_a = d_a + h, .d_b = d_b + h, .d_mark = d_mark + h,
            .states = work, .d_states = work + size, .before = work + 2 * size,
            .d_before = work + 3 * size, .node = nodes + start, .in_ptr = in_ptr + start,
            .into = into, .out_ptr = out_ptr + start, .from = from, .src = src, .dst = dst,
            .twin = twin, .place = place, .nodes = node_ptr[part + 1] - start, .heads = heads,
            .K = K, .V = V, .two_way = two_way,
            .far = (node_ptr[part + 1] - start) * K * W > FAR,
        };
        NAME(own_backward)(u.d_query, u.d_key, u.d_value, d_direct + h, u.grad, u.query, u.key,
                           u.value, direct + h, u.node, u.nodes, heads, K, V);
        TILES(u, u.nodes, K, W, nodes_backward)
    }
}

#undef INLINE
#undef APART
#undef EACH
#undef EIGHT
#undef FAR
#undef FETCH
#undef WITH
#undef TILES
