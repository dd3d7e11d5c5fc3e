/* The layer by states, forward and backward: see walk.py. Included once for each REAL.
 *
 * A unit of work is one part of the batch and one head, number part * heads + head. The edges of a
 * part stand in topological order of the original graph. A state is made in one pass over its rows:
 * its own outer product, what its line edges bring, and what is read of it are computed while a row
 * is in registers. Elements of states never mix, so the states of all edges of a part are made for
 * W columns at a time, the last ones filled up with zeros. W is a constant in all inner loops,
 * which the compiler unrolls. Forward, states are [K, W], columns of V. Backward, they are [V, W],
 * columns of K: then two of the three gradients of nodes are sums over rows. A diagonal transition,
 * which multiplies the rows of the state [K, V], has a number for each row forward, and for each
 * column backward, where its gradient is a sum over rows.
 */

/* What a line edge's transition is: one number, or one for each row or column of a state. */
#define NUMBER 0
#define ROWS 1
#define COLUMNS 2

#define INLINE static inline __attribute__((always_inline))
#define APART static __attribute__((noinline)) /* compilers take long over large functions */
#define EACH(j) for (int64_t j = 0; j < W / 8; j++)

/* The vectors of nodes that a head reads: that of node n begins at first + n * step. */
typedef struct {
    const REAL *first;
    int64_t step;
} NAME(nodes);

INLINE const REAL *NAME(of)(NAME(nodes) x, int64_t n) { return x.first + n * x.step; }

/* The term of each node itself, out_n = D_n (q_n . k_n) v_n; out and direct begin at the head. */
static void NAME(own)(REAL *out, NAME(nodes) query, NAME(nodes) key, NAME(nodes) value,
                      const REAL *direct, const int64_t *node, int64_t nodes, int64_t heads,
                      int64_t K, int64_t V) {
    for (int64_t i = 0; i < nodes; i++) {
        int64_t n = node[i] * heads;
        const REAL *v = NAME(of)(value, node[i]);
        REAL a = direct[n] * NAME(dot)(NAME(of)(query, node[i]), NAME(of)(key, node[i]), K);
        for (int64_t c = 0; c < V; c++) out[n * V + c] = a * v[c];
    }
}

/* Its gradients, which those of the edges are added to. */
static void NAME(own_backward)(REAL *d_query, REAL *d_key, REAL *d_value, REAL *d_direct,
                               NAME(nodes) grad, NAME(nodes) query, NAME(nodes) key,
                               NAME(nodes) value, const REAL *direct, const int64_t *node,
                               int64_t nodes, int64_t heads, int64_t K, int64_t V) {
    for (int64_t i = 0; i < nodes; i++) {
        int64_t n = node[i] * heads;
        const REAL *q = NAME(of)(query, node[i]), *k = NAME(of)(key, node[i]);
        const REAL *v = NAME(of)(value, node[i]), *g = NAME(of)(grad, node[i]);
        REAL qk = NAME(dot)(q, k, K), gv = NAME(dot)(g, v, V);
        REAL for_k = direct[n] * gv, for_v = direct[n] * qk;
        d_direct[n] = qk * gv;
        for (int64_t c = 0; c < K; c++) d_query[n * K + c] = for_k * k[c];
        for (int64_t c = 0; c < K; c++) d_key[n * K + c] = for_k * q[c];
        for (int64_t c = 0; c < V; c++) d_value[n * V + c] = for_v * g[c];
    }
}

/* The line edges into, or out of, the edge at place i: for l from ptr[i] to ptr[i + 1] their rows
 * line[l] of the transition, and the places other[l] - start of their other edges. */
typedef struct {
    const int64_t *ptr, *line, *other;
    int64_t start;
} NAME(lines);

/* What a unit computes from what, in columns [c, c + w). Gates and gradients begin at the head. */
typedef struct {
    NAME(nodes) query, key, value, grad;
    const REAL *source, *transition, *mark;
    REAL *out, *d_query, *d_key, *d_value, *d_source, *d_transition, *d_mark;
    REAL *states, *adjoints;
    NAME(lines) into, from;
    const int64_t *edge, *src, *dst;
    int64_t edges, heads, K, V, reversed, c, w;
    int64_t step; /* from one line edge's transition to the next */
} NAME(unit);

/* a x, n < 8 numbers, filled up with zeros; in registers, as to load what was stored number by
 * number takes long. */
APART NAME(eight) NAME(some)(REAL a, const REAL *x, int64_t n) {
    switch (n) {
        case 1: return (NAME(eight)){a * x[0]};
        case 2: return (NAME(eight)){a * x[0], a * x[1]};
        case 3: return (NAME(eight)){a * x[0], a * x[1], a * x[2]};
        case 4: return (NAME(eight)){a * x[0], a * x[1], a * x[2], a * x[3]};
        case 5: return (NAME(eight)){a * x[0], a * x[1], a * x[2], a * x[3], a * x[4]};
        case 6: return (NAME(eight)){a * x[0], a * x[1], a * x[2], a * x[3], a * x[4], a * x[5]};
        case 7:
            return (NAME(eight)){a * x[0], a * x[1], a * x[2], a * x[3],
                                 a * x[4], a * x[5], a * x[6]};
        default: return (NAME(eight)){0};
    }
}

/* Columns [c, c + w) of a row, times a, filled up with zeros. */
INLINE void NAME(load)(NAME(eight) *to, REAL a, const REAL *row, int64_t c, int64_t w, int64_t W) {
    EACH(j) {
        if (w == W || 8 * j + 8 <= w)
            to[j] = a * NAME(get)(row + c + 8 * j);
        else
            to[j] = NAME(some)(a, row + c + 8 * j, w - 8 * j);
    }
}

/* Columns [c, c + w) of a row += a x. */
INLINE void NAME(add)(REAL *row, REAL a, const NAME(eight) *x, int64_t c, int64_t w, int64_t W) {
    if (w == W)
        EACH(j) *(NAME(eight) *)(row + c + 8 * j) += a * x[j];
    else {
        int64_t whole = w / 8;
        EACH(j) if (j < whole) *(NAME(eight) *)(row + c + 8 * j) += a * x[j];
        for (int64_t j = 8 * whole; j < w; j++) row[c + j] += a * ((const REAL *)x)[j];
    }
}

/* What all line edges of place i but the first two bring; their gradients, state . other, are added
 * to d_transition, if given. */
APART void NAME(others)(const NAME(unit) *u, REAL *states, int64_t i, const NAME(lines) *lines,
                        const REAL *state, REAL *d_transition, int64_t size) {
    memset(states + i * size, 0, size * sizeof(REAL));
    for (int64_t l = lines->ptr[i] + 2; l < lines->ptr[i + 1]; l++) {
        const REAL *other = states + (lines->other[l] - lines->start) * size;
        NAME(axpy)(states + i * size, u->transition[lines->line[l] * u->step], other, size);
        if (d_transition)
            d_transition[lines->line[l] * u->step] += NAME(dot)(state, other, size);
    }
}

/* The same for diagonal transitions. */
INLINE void NAME(diagonal_others)(const NAME(unit) *u, REAL *states, int64_t i,
                                  const NAME(lines) *lines, const REAL *state, REAL *d_transition,
                                  int64_t rows, int kind, int64_t W) {
    REAL *to = states + i * rows * W;
    memset(to, 0, rows * W * sizeof(REAL));
    for (int64_t l = lines->ptr[i] + 2; l < lines->ptr[i + 1]; l++) {
        const REAL *other = states + (lines->other[l] - lines->start) * rows * W;
        const REAL *t = u->transition + lines->line[l] * u->step;
        REAL *dt = d_transition ? d_transition + lines->line[l] * u->step : 0;
        NAME(eight) a[4], sum[4] = {0};
        if (kind == COLUMNS) NAME(load)(a, 1, t, u->c, u->w, W);
        for (int64_t r = 0; r < rows; r++) {
            NAME(eight) row = {0};
            EACH(j) {
                int64_t at = r * W + 8 * j;
                NAME(eight) y = NAME(get)(other + at);
                if (kind == COLUMNS)
                    *(NAME(eight) *)(to + at) += a[j] * y;
                else
                    *(NAME(eight) *)(to + at) += t[r] * y;
                if (state && kind == COLUMNS) sum[j] += NAME(get)(state + at) * y;
                if (state && kind == ROWS) row += NAME(get)(state + at) * y;
            }
            if (state && kind == ROWS) dt[r] += NAME(sum)(row);
        }
        if (state && kind == COLUMNS) NAME(add)(dt, 1, sum, u->c, u->w, W);
    }
}

/* The number of line edges of place i; transitions t and states from of the first two. What the
 * others bring is written to its row. */
INLINE int64_t NAME(gather)(const NAME(unit) *u, REAL *states, int64_t i, const NAME(lines) *lines,
                            const REAL **t, const REAL **from, const REAL *state,
                            REAL *d_transition, int64_t rows, int kind, int64_t W) {
    int64_t first = lines->ptr[i], n = lines->ptr[i + 1] - first;
    for (int64_t m = 0; m < n && m < 2; m++) {
        t[m] = u->transition + lines->line[first + m] * u->step;
        from[m] = states + (lines->other[first + m] - lines->start) * rows * W;
    }
    if (n > 2 && kind == NUMBER)
        NAME(others)(u, states, i, lines, state, d_transition, rows * W);
    else if (n > 2)
        NAME(diagonal_others)(u, states, i, lines, state, d_transition, rows, kind, W);
    return n;
}

/* Ask for n numbers. */
INLINE void NAME(ask_row)(const REAL *x, int64_t n) {
    for (int64_t i = 0; i < n; i += 64 / (int64_t)sizeof(REAL)) __builtin_prefetch(x + i);
}

#define AHEAD 2 /* edges before an edge is come to, what it is made of is asked for */

/* Ask for what the edge at place i is made of, with transitions of n numbers, and source and mark
 * of so many: else one waits for each in turn, as an edge is more than processors look ahead. */
INLINE void NAME(ahead)(const NAME(unit) *u, int64_t i, const NAME(lines) *lines, int64_t n,
                        int64_t source, int64_t mark, int grads) {
    if (i < 0 || i >= u->edges) return;
    int64_t e = u->edge[i], s = u->src[e], d = u->dst[e];
    for (int64_t l = lines->ptr[i]; l < lines->ptr[i + 1] && l < lines->ptr[i] + 4; l++) {
        NAME(ask_row)(u->transition + lines->line[l] * u->step, n);
        if (grads) NAME(ask_row)(u->d_transition + lines->line[l] * u->step, n);
    }
    NAME(ask_row)(u->source + e * u->heads * source, 1);
    NAME(ask_row)(u->mark + e * u->heads * mark, 1);
    NAME(ask_row)(NAME(of)(u->query, d), u->K);
    NAME(ask_row)(NAME(of)(u->key, s), u->K);
    NAME(ask_row)(NAME(of)(u->value, s), u->V);
    if (grads) {
        NAME(ask_row)(NAME(of)(u->grad, d), u->V);
        NAME(ask_row)(u->d_source + e * u->heads * source, 1);
        NAME(ask_row)(u->d_mark + e * u->heads * mark, 1);
    }
}

/* What n transitions are in registers: numbers a, or vectors of columns. */
INLINE void NAME(transitions)(const NAME(unit) *u, const REAL **t, REAL *a,
                              NAME(eight) (*columns)[4], int kind, int64_t W, int n) {
    for (int m = 0; m < n && m < 2; m++) {
        if (kind == NUMBER) a[m] = *t[m];
        if (kind == COLUMNS) NAME(load)(columns[m], 1, t[m], u->c, u->w, W);
    }
}

/* The call with the number n of line edges as a constant: 0, 1, 2, or more. */
#define COUNT(n, function, ...)                              \
    switch (n) {                                             \
        case 0: NAME(function)(__VA_ARGS__, 0); break;       \
        case 1: NAME(function)(__VA_ARGS__, 1); break;       \
        case 2: NAME(function)(__VA_ARGS__, 2); break;       \
        default: NAME(function)(__VA_ARGS__, 3);             \
    }

/* state = left right^T + sum of t[m] from[m]; sum += query^T state, if there is a query. */
INLINE void NAME(state)(const NAME(unit) *u, REAL *state, const REAL *left,
                        const NAME(eight) *right, const REAL **t, const REAL **from, int reads,
                        const REAL *query, NAME(eight) *sum, int64_t rows, int kind, int64_t W,
                        int n) {
    REAL a[2];
    NAME(eight) columns[2][4];
    NAME(transitions)(u, t, a, columns, kind, W, n);
    for (int64_t r = 0; r < rows; r++)
        EACH(j) {
            int64_t at = r * W + 8 * j;
            NAME(eight) x = left[r] * right[j];
            if (n > 2) x += NAME(get)(state + at);
            for (int m = 0; m < n && m < 2; m++) {
                NAME(eight) y = NAME(get)(from[m] + at);
                x += kind == COLUMNS ? columns[m][j] * y : (kind == ROWS ? t[m][r] : a[m]) * y;
            }
            *(NAME(eight) *)(state + at) = x;
            if (reads) sum[j] += query[r] * x;
        }
}

/* All states of a unit, left_src(e) S_e right_src(e)^T and what comes into e; forward they are
 * read, out_dst(e) += M_e C_e^T q_dst(e). */
INLINE void NAME(states)(const NAME(unit) *u, NAME(nodes) left, NAME(nodes) right, int reads,
                         int64_t rows, int kind, int64_t W) {
    for (int64_t p = 0; p < u->edges; p++) {
        int64_t i = u->reversed ? u->edges - 1 - p : p, e = u->edge[i], gate = e * u->heads;
        int64_t s = u->src[e], d = u->dst[e];
        const REAL *t[2], *from[2];
        NAME(eight) x[4], sum[4] = {0};
        if (kind != NUMBER)
            NAME(ahead)(u, u->reversed ? i - AHEAD : i + AHEAD, &u->into, u->K, 1, 1, 0);
        int64_t n = NAME(gather)(u, u->states, i, &u->into, t, from, 0, 0, rows, kind, W);
        NAME(load)(x, u->source[gate], NAME(of)(right, s), u->c, u->w, W);
        COUNT(n, state, u, u->states + i * rows * W, NAME(of)(left, s), x, t, from, reads,
              NAME(of)(u->query, d), sum, rows, kind, W)
        if (reads)
            NAME(add)(u->out + d * u->heads * u->V, u->mark[gate], sum, u->c, u->w, W);
    }
}

/* adjoint = grad query^T + sum of t[m] from[m]. What it and the state say, see states_backward in
 * levelwise.py: d_query += grad^T state, d_key += value^T adjoint, d_value += adjoint key,
 * dt[m] += state . from[m], for each column where the transition is diagonal. */
INLINE void NAME(adjoint)(const NAME(unit) *u, REAL *adjoint, const REAL *state, const REAL *grad,
                          const REAL *value, const NAME(eight) *query, const NAME(eight) *key,
                          const REAL **t, const REAL **from, NAME(eight) *d_query,
                          NAME(eight) *d_key, REAL *d_value, REAL **dt, int64_t rows, int kind,
                          int64_t W, int n) {
    REAL a[2];
    NAME(eight) columns[2][4], dot[2][4] = {0};
    NAME(transitions)(u, t, a, columns, kind, W, n);
    for (int64_t r = 0; r < rows; r++) {
        NAME(eight) for_value = {0};
        REAL g = grad[r], v = value[r];
        EACH(j) {
            int64_t at = r * W + 8 * j;
            NAME(eight) c = NAME(get)(state + at), x = g * query[j];
            if (n > 2) x += NAME(get)(adjoint + at);
            for (int m = 0; m < n && m < 2; m++) {
                NAME(eight) y = NAME(get)(from[m] + at);
                x += kind == COLUMNS ? columns[m][j] * y : a[m] * y;
                dot[m][kind == COLUMNS ? j : 0] += c * y;
            }
            *(NAME(eight) *)(adjoint + at) = x;
            d_query[j] += g * c;
            d_key[j] += v * x;
            for_value += x * key[j];
        }
        d_value[r] += NAME(sum)(for_value);
    }
    for (int m = 0; m < n && m < 2; m++)
        if (kind == COLUMNS)
            NAME(add)(dt[m], 1, dot[m], u->c, u->w, W);
        else
            *dt[m] += NAME(sum)(dot[m][0]);
}

/* All adjoint states [V, W] of a unit whose states are there, and their terms of the gradients. */
INLINE void NAME(adjoints)(const NAME(unit) *u, int kind, int64_t W) {
    int64_t size = u->V * W;
    for (int64_t p = 0; p < u->edges; p++) {
        int64_t i = u->reversed ? p : u->edges - 1 - p, e = u->edge[i];
        int64_t s = u->src[e], d = u->dst[e], gate = e * u->heads;
        const REAL *q = NAME(of)(u->query, d), *k = NAME(of)(u->key, s), *t[2], *from[2];
        REAL *state = u->states + i * size, *dt[2];
        NAME(eight) query[4], key[4], d_query[4] = {0}, d_key[4] = {0};
        if (kind != NUMBER)
            NAME(ahead)(u, u->reversed ? i + AHEAD : i - AHEAD, &u->from, u->K, 1, 1, 1);
        int64_t n = NAME(gather)(u, u->adjoints, i, &u->from, t, from, state, u->d_transition,
                                 u->V, kind, W);
        for (int64_t m = 0; m < n && m < 2; m++) dt[m] = u->d_transition + (t[m] - u->transition);
        NAME(load)(query, u->mark[gate], q, u->c, u->w, W);
        NAME(load)(key, u->source[gate], k, u->c, u->w, W);
        COUNT(n, adjoint, u, u->adjoints + i * size, state, NAME(of)(u->grad, d),
              NAME(of)(u->value, s), query, key, t, from, d_query, d_key,
              u->d_value + s * u->heads * u->V, dt, u->V, kind, W)
        u->d_mark[gate] += NAME(dot)(q + u->c, (REAL *)d_query, u->w);
        u->d_source[gate] += NAME(dot)(k + u->c, (REAL *)d_key, u->w);
        NAME(add)(u->d_query + d * u->heads * u->K, u->mark[gate], d_query, u->c, u->w, W);
        NAME(add)(u->d_key + s * u->heads * u->K, u->source[gate], d_key, u->c, u->w, W);
    }
}

/* A tile of columns, for each W. */
#define WITH(W)                                                   \
    APART void NAME(forward_##W)(const NAME(unit) *u) {           \
        NAME(states)(u, u->key, u->value, 1, u->K, NUMBER, W);    \
    }                                                             \
    APART void NAME(backward_##W)(const NAME(unit) *u) {          \
        NAME(states)(u, u->value, u->key, 0, u->V, NUMBER, W);    \
        NAME(adjoints)(u, NUMBER, W);                             \
    }                                                             \
    APART void NAME(diagonal_forward_##W)(const NAME(unit) *u) {  \
        NAME(states)(u, u->key, u->value, 1, u->K, ROWS, W);      \
    }                                                             \
    APART void NAME(diagonal_backward_##W)(const NAME(unit) *u) { \
        NAME(states)(u, u->value, u->key, 0, u->V, COLUMNS, W);   \
        NAME(adjoints)(u, COLUMNS, W);                            \
    }
WITH(8)
WITH(16)
WITH(24)
WITH(32)

/* All tiles of a unit that has anything. */
#define TILES(u, some, columns, W, function)            \
    for (u.c = 0; u.c < columns && some; u.c += W) {    \
        u.w = columns - u.c < W ? columns - u.c : W;    \
        switch (W) {                                    \
            case 8: NAME(function##_8)(&u); break;      \
            case 16: NAME(function##_16)(&u); break;    \
            case 24: NAME(function##_24)(&u); break;    \
            default: NAME(function##_32)(&u);           \
        }                                               \
    }

/* The line edges of a part by their other ends. room: 2 + edges + 2 (line edges) numbers. */
static NAME(lines) NAME(turned)(NAME(lines) x, int64_t edges, int64_t *room) {
    int64_t first = x.ptr[0], last = x.ptr[edges];
    int64_t *ptr = room, *line = room + edges + 2, *other = line + last - first;
    memset(ptr, 0, (edges + 2) * sizeof(int64_t));
    for (int64_t l = first; l < last; l++) ptr[x.other[l] - x.start + 2]++;
    for (int64_t i = 2; i < edges + 2; i++) ptr[i] += ptr[i - 1];
    for (int64_t i = 0; i < edges; i++)
        for (int64_t l = x.ptr[i]; l < x.ptr[i + 1]; l++) {
            int64_t to = ptr[x.other[l] - x.start + 1]++;
            line[to] = x.line[l];
            other[to] = i;
        }
    return (NAME(lines)){ptr, line, other, 0};
}

#define FETCHED (1 << 18) /* bytes that may be asked for at once */

/* Ask for the rows of `length` numbers that the next units, the heads of a part, read: one would
 * otherwise wait for each of them, as they stand wherever the batch has them. */
static void NAME(ask)(const REAL *first, int64_t step, int64_t length, const int64_t *row,
                        int64_t rows) {
    int64_t bytes = length * sizeof(REAL);
    if (bytes * rows > FETCHED) return;
    for (int64_t i = 0; i < rows; i++)
        for (int64_t b = 0; b < bytes; b += 64)
            __builtin_prefetch((const char *)(first + row[i] * step) + b);
}

/* Space for turned(), whatever part of the units [first, last) it is for. */
static int64_t *NAME(room)(int64_t first, int64_t last, int64_t heads, const int64_t *edge_ptr,
                           const int64_t *line_ptr) {
    int64_t most = 0;
    for (int64_t part = first / heads; part * heads < last; part++) {
        int64_t from = edge_ptr[part], to = edge_ptr[part + 1];
        int64_t size = 2 + to - from + 2 * (line_ptr[to] - line_ptr[from]);
        most = size > most ? size : most;
    }
    return malloc(most * sizeof(int64_t));
}

/* h_n = D_n (q_n . k_n) v_n + sum over e into n of M_e C_e^T q_n. */
void NAME(walk_forward)(const REAL *query, const REAL *key, const REAL *value,
                        const REAL *source, const REAL *transition, const REAL *mark,
                        const REAL *direct, REAL *out, REAL *work, int64_t first, int64_t last,
                        int64_t heads, int64_t K, int64_t V, int64_t W, int64_t query_step,
                        int64_t key_step, int64_t value_step, int64_t diagonal, int64_t reversed,
                        const int64_t *node_ptr, const int64_t *nodes, const int64_t *edge_ptr,
                        const int64_t *edges, const int64_t *line_ptr, const int64_t *line,
                        const int64_t *next, const int64_t *src, const int64_t *dst) {
    int64_t *room = NAME(room)(first, last, heads, edge_ptr, line_ptr);
    int64_t each = diagonal ? K : 1;
    NAME(lines) into = {0};
    for (int64_t i = first; i < last; i++) {
        int64_t part = i / heads, h = i % heads, start = edge_ptr[part];
        int64_t count = edge_ptr[part + 1] - start;
        if (i == first || h == 0) {
            into = (NAME(lines)){line_ptr + start, line, next, start};
            if (!reversed) into = NAME(turned)(into, count, room);
        }
        NAME(unit) u = {
            .query = {query + h * K, query_step}, .key = {key + h * K, key_step},
            .value = {value + h * V, value_step}, .source = source + h,
            .transition = transition + h * each, .mark = mark + h, .out = out + h * V,
            .states = work, .into = into, .edge = edges + start, .src = src, .dst = dst,
            .edges = count,
            .heads = heads, .K = K, .V = V, .reversed = reversed, .step = heads * each,
        };
        NAME(own)(u.out, u.query, u.key, u.value, direct + h, nodes + node_ptr[part],
                  node_ptr[part + 1] - node_ptr[part], heads, K, V);
        if (diagonal && (i == first || h == 0))
            NAME(ask)(transition, heads * K, heads * K, line + line_ptr[start],
                        line_ptr[start + count] - line_ptr[start]);
        if (diagonal)
            TILES(u, u.edges, V, W, diagonal_forward)
        else
            TILES(u, u.edges, V, W, forward)
    }
    free(room);
}

/* The gradients of the seven inputs from that of the output. Those of source, transition and mark
 * are zero before. */
void NAME(walk_backward)(const REAL *grad, const REAL *query, const REAL *key, const REAL *value,
                         const REAL *source, const REAL *transition, const REAL *mark,
                         const REAL *direct, REAL *d_query, REAL *d_key, REAL *d_value,
                         REAL *d_source, REAL *d_transition, REAL *d_mark, REAL *d_direct,
                         REAL *work, int64_t first, int64_t last, int64_t heads, int64_t K,
                         int64_t V, int64_t W, int64_t query_step, int64_t key_step,
                         int64_t value_step, int64_t diagonal, int64_t reversed,
                         const int64_t *node_ptr,
                         const int64_t *nodes, const int64_t *edge_ptr, const int64_t *edges,
                         const int64_t *line_ptr, const int64_t *line, const int64_t *next,
                         const int64_t *src, const int64_t *dst) {
    int64_t *room = NAME(room)(first, last, heads, edge_ptr, line_ptr);
    int64_t each = diagonal ? K : 1;
    NAME(lines) later = {0}, earlier = {0};
    for (int64_t i = first; i < last; i++) {
        int64_t part = i / heads, h = i % heads, start = edge_ptr[part];
        int64_t count = edge_ptr[part + 1] - start;
        if (i == first || h == 0) {
            later = (NAME(lines)){line_ptr + start, line, next, start};
            earlier = NAME(turned)(later, count, room);
        }
        NAME(unit) u = {
            .query = {query + h * K, query_step}, .key = {key + h * K, key_step},
            .value = {value + h * V, value_step}, .grad = {grad + h * V, heads * V},
            .source = source + h, .transition = transition + h * each, .mark = mark + h,
            .d_query = d_query + h * K, .d_key = d_key + h * K, .d_value = d_value + h * V,
            .d_source = d_source + h, .d_transition = d_transition + h * each, .d_mark = d_mark + h,
            .states = work, .adjoints = work + count * V * W,
            .into = reversed ? later : earlier, .from = reversed ? earlier : later,
            .edge = edges + start, .src = src, .dst = dst, .edges = count,
            .heads = heads, .K = K, .V = V, .reversed = reversed, .step = heads * each,
        };
        NAME(own_backward)(u.d_query, u.d_key, u.d_value, d_direct + h, u.grad, u.query, u.key,
                           u.value, direct + h, nodes + node_ptr[part],
                           node_ptr[part + 1] - node_ptr[part], heads, K, V);
        if (diagonal && (i == first || h == 0)) {
            int64_t l = line_ptr[start], lines = line_ptr[start + count] - l;
            NAME(ask)(transition, heads * K, heads * K, line + l, lines);
            NAME(ask)(d_transition, heads * K, heads * K, line + l, lines);
        }
        if (diagonal)
            TILES(u, u.edges, K, W, diagonal_backward)
        else
            TILES(u, u.edges, K, W, backward)
    }
    free(room);
}

#undef WITH
