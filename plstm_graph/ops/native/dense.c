/* The layer by gating matrices, forward and backward: see dense.py. Included once for each REAL.
 *
 * A unit of work is one part of the batch and one head, number part * heads + head. All matrices of
 * a unit are small enough for the cache. Their rows are filled up with zeros to a multiple of 8
 * columns (n8, K8, V8), so no loop has a remainder. Edges stand in topological order of the
 * original graph, as in walk.c, whose tables of line edges serve here too.
 */

#define EIGHTS(x) (((x) + 7) & -8)

/* Rows [R, 8 * B] of c += a b; a's element (i, k) is a[i * row + k * column], b's rows are wide. */
#define BLOCK(R, B)                                                                          \
    static inline __attribute__((always_inline)) void NAME(block_##R##_##B)(                 \
        REAL *c, int64_t c_step, const REAL *a, int64_t row, int64_t column, const REAL *b,  \
        int64_t b_step, int64_t depth) {                                                     \
        NAME(eight) x[R][B];                                                                 \
        for (int i = 0; i < R; i++)                                                          \
            for (int j = 0; j < B; j++) x[i][j] = NAME(get)(c + i * c_step + 8 * j);         \
        for (int64_t k = 0; k < depth; k++)                                                  \
            for (int j = 0; j < B; j++) {                                                    \
                NAME(eight) y = NAME(get)(b + k * b_step + 8 * j);                           \
                for (int i = 0; i < R; i++) x[i][j] += a[i * row + k * column] * y;          \
            }                                                                                \
        for (int i = 0; i < R; i++)                                                          \
            for (int j = 0; j < B; j++) *(NAME(eight) *)(c + i * c_step + 8 * j) = x[i][j];  \
    }
BLOCK(4, 2)
BLOCK(4, 1)
BLOCK(1, 2)
BLOCK(1, 1)

/* c [rows, wide] += a [rows, depth] b [depth, wide], with wide a multiple of 8. */
static __attribute__((noinline)) void NAME(product)(REAL *c, int64_t wide, const REAL *a,
                                                    int64_t row, int64_t column, const REAL *b,
                                                    int64_t rows, int64_t depth) {
    for (int64_t i = 0; i < rows;) {
        int many = i + 4 <= rows;
        for (int64_t j = 0; j < wide;) {
            int two = j + 16 <= wide;
            REAL *to = c + i * wide + j;
            const REAL *from = a + i * row;
            if (many && two)
                NAME(block_4_2)(to, wide, from, row, column, b + j, wide, depth);
            else if (many)
                NAME(block_4_1)(to, wide, from, row, column, b + j, wide, depth);
            else if (two)
                NAME(block_1_2)(to, wide, from, row, column, b + j, wide, depth);
            else
                NAME(block_1_1)(to, wide, from, row, column, b + j, wide, depth);
            j += two ? 16 : 8;
        }
        i += many ? 4 : 1;
    }
}

/* A part's rows of a tensor [N, heads, width] as a matrix [nodes, wide], or its transpose
 * [width, wide]. */
static void NAME(pack)(REAL *to, const REAL *from, int64_t step, const int64_t *node,
                       int64_t nodes, int64_t width, int64_t wide, int turned) {
    memset(to, 0, (turned ? width : nodes) * wide * sizeof(REAL));
    for (int64_t i = 0; i < nodes; i++) {
        const REAL *row = from + node[i] * step;
        if (turned)
            for (int64_t c = 0; c < width; c++) to[c * wide + i] = row[c];
        else
            memcpy(to + i * wide, row, width * sizeof(REAL));
    }
}

static void NAME(unpack)(REAL *to, const REAL *from, int64_t step, const int64_t *node,
                         int64_t nodes, int64_t width, int64_t wide) {
    for (int64_t i = 0; i < nodes; i++)
        memcpy(to + node[i] * step, from + i * wide, width * sizeof(REAL));
}

/* A part and head: gates begin at the head. */
typedef struct {
    const REAL *source, *transition, *mark, *direct;
    NAME(lines) into, from;
    const int64_t *edge, *src, *dst, *node, *local;
    int64_t nodes, edges, heads, reversed;
} NAME(gates);

/* rows [edges, n8]: what each edge's state holds of each node. gating [nodes, n8] = M rows + D. */
static void NAME(gating)(const NAME(gates) *u, REAL *rows, REAL *gating, int64_t n8) {
    memset(gating, 0, u->nodes * n8 * sizeof(REAL));
    memset(rows, 0, u->edges * n8 * sizeof(REAL));
    for (int64_t p = 0; p < u->edges; p++) {
        int64_t i = u->reversed ? u->edges - 1 - p : p, e = u->edge[i];
        REAL *row = rows + i * n8;
        for (int64_t l = u->into.ptr[i]; l < u->into.ptr[i + 1]; l++)
            NAME(axpy)(row, u->transition[u->into.line[l] * u->heads],
                       rows + (u->into.other[l] - u->into.start) * n8, n8);
        row[u->local[u->src[e]]] += u->source[e * u->heads];
        NAME(axpy)(gating + u->local[u->dst[e]] * n8, u->mark[e * u->heads], row, n8);
    }
    for (int64_t i = 0; i < u->nodes; i++)
        gating[i * n8 + i] += u->direct[u->node[i] * u->heads];
}

/* The gradients of the gates from that of gating; adjoint [edges, n8] is working space. */
static void NAME(gating_adjoint)(const NAME(gates) *u, const REAL *d_gating, const REAL *rows,
                                 REAL *adjoint, REAL *d_source, REAL *d_transition, REAL *d_mark,
                                 REAL *d_direct, int64_t n8) {
    for (int64_t p = 0; p < u->edges; p++) {
        int64_t i = u->reversed ? p : u->edges - 1 - p, e = u->edge[i];
        const REAL *d = d_gating + u->local[u->dst[e]] * n8;
        REAL *x = adjoint + i * n8, m = u->mark[e * u->heads];
        d_mark[e * u->heads] = NAME(dot)(d, rows + i * n8, n8);
        for (int64_t c = 0; c < n8; c++) x[c] = m * d[c];
        for (int64_t l = u->from.ptr[i]; l < u->from.ptr[i + 1]; l++) {
            const REAL *later = adjoint + (u->from.other[l] - u->from.start) * n8;
            int64_t line = u->from.line[l] * u->heads;
            NAME(axpy)(x, u->transition[line], later, n8);
            d_transition[line] = NAME(dot)(rows + i * n8, later, n8);
        }
        d_source[e * u->heads] = x[u->local[u->src[e]]];
    }
    for (int64_t i = 0; i < u->nodes; i++)
        d_direct[u->node[i] * u->heads] = d_gating[i * n8 + i];
}

/* H = (Q K^T * G) V. */
void NAME(dense_forward)(const REAL *query, const REAL *key, const REAL *value,
                         const REAL *source, const REAL *transition, const REAL *mark,
                         const REAL *direct, REAL *out, REAL *work, int64_t first, int64_t last,
                         int64_t heads, int64_t K, int64_t V, int64_t query_step,
                         int64_t key_step, int64_t value_step, int64_t reversed,
                         const int64_t *node_ptr, const int64_t *nodes, const int64_t *edge_ptr,
                         const int64_t *edges, const int64_t *line_ptr, const int64_t *line,
                         const int64_t *next, const int64_t *src, const int64_t *dst,
                         const int64_t *local) {
    int64_t *room = NAME(room)(first, last, heads, edge_ptr, line_ptr), V8 = EIGHTS(V);
    NAME(lines) into = {0};
    for (int64_t i = first; i < last; i++) {
        int64_t part = i / heads, h = i % heads, start = edge_ptr[part];
        int64_t count = edge_ptr[part + 1] - start;
        int64_t n = node_ptr[part + 1] - node_ptr[part], n8 = EIGHTS(n);
        const int64_t *node = nodes + node_ptr[part];
        if (i == first || h == 0) {
            into = (NAME(lines)){line_ptr + start, line, next, start};
            if (!reversed) into = NAME(turned)(into, count, room);
        }
        NAME(gates) u = {
            .source = source + h, .transition = transition + h, .mark = mark + h,
            .direct = direct + h, .into = into, .edge = edges + start, .src = src, .dst = dst,
            .node = node, .local = local, .nodes = n, .edges = count, .heads = heads,
            .reversed = reversed,
        };
        REAL *rows = work, *gating = rows + count * n8, *scores = gating + n * n8;
        REAL *keys = scores + n * n8, *values = keys + K * n8, *to = values + n * V8;
        NAME(gating)(&u, rows, gating, n8);
        NAME(pack)(keys, key + h * K, key_step, node, n, K, n8, 1);
        NAME(pack)(values, value + h * V, value_step, node, n, V, V8, 0);
        NAME(pack)(to, query + h * K, query_step, node, n, K, EIGHTS(K), 0);
        memset(scores, 0, n * n8 * sizeof(REAL));
        NAME(product)(scores, n8, to, EIGHTS(K), 1, keys, n, K);
        for (int64_t c = 0; c < n * n8; c++) scores[c] *= gating[c];
        memset(to, 0, n * V8 * sizeof(REAL));
        NAME(product)(to, V8, scores, n8, 1, values, n, n);
        NAME(unpack)(out + h * V, to, heads * V, node, n, V, V8);
    }
    free(room);
}

/* The gradients of the seven inputs from that of the output. */
void NAME(dense_backward)(const REAL *grad, const REAL *query, const REAL *key,
                          const REAL *value, const REAL *source, const REAL *transition,
                          const REAL *mark, const REAL *direct, REAL *d_query, REAL *d_key,
                          REAL *d_value, REAL *d_source, REAL *d_transition, REAL *d_mark,
                          REAL *d_direct, REAL *work, int64_t first, int64_t last, int64_t heads,
                          int64_t K, int64_t V, int64_t query_step, int64_t key_step,
                          int64_t value_step, int64_t reversed, const int64_t *node_ptr,
                          const int64_t *nodes, const int64_t *edge_ptr, const int64_t *edges,
                          const int64_t *line_ptr, const int64_t *line, const int64_t *next,
                          const int64_t *src, const int64_t *dst, const int64_t *local) {
    int64_t *room = NAME(room)(first, last, heads, edge_ptr, line_ptr);
    int64_t K8 = EIGHTS(K), V8 = EIGHTS(V);
    NAME(lines) later = {0}, earlier = {0};
    for (int64_t i = first; i < last; i++) {
        int64_t part = i / heads, h = i % heads, start = edge_ptr[part];
        int64_t count = edge_ptr[part + 1] - start;
        int64_t n = node_ptr[part + 1] - node_ptr[part], n8 = EIGHTS(n);
        const int64_t *node = nodes + node_ptr[part];
        if (i == first || h == 0) {
            later = (NAME(lines)){line_ptr + start, line, next, start};
            earlier = NAME(turned)(later, count, room);
        }
        NAME(gates) u = {
            .source = source + h, .transition = transition + h, .mark = mark + h,
            .direct = direct + h, .into = reversed ? later : earlier,
            .from = reversed ? earlier : later, .edge = edges + start, .src = src, .dst = dst,
            .node = node, .local = local, .nodes = n, .edges = count, .heads = heads,
            .reversed = reversed,
        };
        REAL *rows = work, *adjoint = rows + count * n8, *gating = adjoint + count * n8;
        REAL *scores = gating + n * n8, *d_a = scores + n * n8, *q = d_a + n * n8;
        REAL *k = q + n * K8, *g = k + n * K8, *turned = g + n * V8;
        REAL *to = turned + (K > V ? K : V) * n8;
        NAME(gating)(&u, rows, gating, n8);
        NAME(pack)(q, query + h * K, query_step, node, n, K, K8, 0);
        NAME(pack)(k, key + h * K, key_step, node, n, K, K8, 0);
        NAME(pack)(g, grad + h * V, heads * V, node, n, V, V8, 0);
        memset(scores, 0, 2 * n * n8 * sizeof(REAL));
        NAME(pack)(turned, key + h * K, key_step, node, n, K, n8, 1);
        NAME(product)(scores, n8, q, K8, 1, turned, n, K);
        NAME(pack)(turned, value + h * V, value_step, node, n, V, n8, 1);
        NAME(product)(d_a, n8, g, V8, 1, turned, n, V);
        /* With A = scores * gating and d_a its gradient: gating becomes d_a * gating, scores A,
         * and then d_a * scores, the gradient of the gating matrix. */
        memset(to, 0, n * V8 * sizeof(REAL));
        for (int64_t c = 0; c < n * n8; c++) {
            REAL a = scores[c] * gating[c];
            gating[c] *= d_a[c];
            d_a[c] *= scores[c];
            scores[c] = a;
        }
        NAME(product)(to, V8, scores, 1, n8, g, n, n);
        NAME(unpack)(d_value + h * V, to, heads * V, node, n, V, V8);
        memset(to, 0, n * K8 * sizeof(REAL));
        NAME(product)(to, K8, gating, n8, 1, k, n, n);
        NAME(unpack)(d_query + h * K, to, heads * K, node, n, K, K8);
        memset(to, 0, n * K8 * sizeof(REAL));
        NAME(product)(to, K8, gating, 1, n8, q, n, n);
        NAME(unpack)(d_key + h * K, to, heads * K, node, n, K, K8);
        NAME(gating_adjoint)(&u, d_a, rows, adjoint, d_source + h, d_transition + h, d_mark + h,
                             d_direct + h, n8);
    }
    free(room);
}

#undef EIGHTS
#undef BLOCK
