/* The layer with block transitions, and with reflections of states, forward and backward: see
 * forms/walk.py for the derivation. Included once for each REAL.
 *
 * Units of work, the order of edges and tiles are those of walk.c. A state is J matrices [K, W], W
 * columns of V, one after the other, forward and backward: a reflection needs all of K. Only line
 * edges mix the J, so all else is done for one after the other.
 */

#define BLOCK 3 /* a kind of transition, beside NUMBER and ROWS of walk.c, which have J = 1 */
#define EIGHT(x) (*(NAME(eight) *)(x))
#define GROUP 4 /* states that are made together */

typedef struct {
    NAME(unit) u;
    NAME(nodes) keys, written; /* of reflections: [R, K], [R, V] */
    const REAL *beta;
    REAL *d_keys, *d_written, *d_beta;
    REAL *errors; /* w = C^T k - S v of each reflection: [edges, J, R, W], forward of one edge */
    REAL *right, *left, *nothing; /* [J, W], nothing is zeros */
    REAL *turned, *rows; /* [4, J, 4], [3, high, 8] */
    int64_t high; /* K, or the next multiple of eight */
    int64_t J, S, M, R; /* states of an edge, rows of Source, columns of Mark, reflections */
} NAME(cell);

/* to = sum of a[i * step] times columns [c, c + w) of row i, filled up with zeros; `only`
 * is row 0, which is all there is to do where there is one row. */
INLINE void NAME(mix)(NAME(eight) *to, const REAL *a, int64_t step, const NAME(eight) *only,
                      const REAL *row, int64_t each, int64_t rows, int64_t c, int64_t w,
                      int64_t W) {
    if (rows == 1) {
        EACH(j) to[j] = a[0] * only[j];
        return;
    }
    NAME(load)(to, a[0], row, c, w, W);
    for (int64_t i = 1; i < rows; i++) {
        NAME(eight) x[4];
        NAME(load)(x, a[i * step], row + i * each, c, w, W);
        EACH(j) to[j] += x[j];
    }
}

/* d[i * step] += row i . x, likewise. */
INLINE void NAME(unmix)(REAL *d, int64_t step, const NAME(eight) *only, const REAL *row,
                        int64_t each, int64_t rows, const NAME(eight) *x, int64_t c, int64_t w,
                        int64_t W) {
    if (rows == 1) {
        NAME(eight) sum = {0};
        EACH(j) sum += only[j] * x[j];
        d[0] += NAME(sum)(sum);
        return;
    }
    for (int64_t i = 0; i < rows; i++)
        d[i * step] += NAME(dot)(row + i * each + c, (const REAL *)x, w);
}

/* x += the sum of each of the rows [count, 8]; there is room for a multiple of eight rows. */
static void NAME(add_sums)(REAL *x, const REAL *rows, int64_t count) {
#if defined(__clang__) || __GNUC__ >= 12
#define TURN(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#define ONES(a, b) (TURN(a, b, 0, 8, 2, 10, 4, 12, 6, 14) + TURN(a, b, 1, 9, 3, 11, 5, 13, 7, 15))
#define TWOS(a, b) (TURN(a, b, 0, 1, 8, 9, 4, 5, 12, 13) + TURN(a, b, 2, 3, 10, 11, 6, 7, 14, 15))
#define FOURS(a, b) (TURN(a, b, 0, 1, 2, 3, 8, 9, 10, 11) + TURN(a, b, 4, 5, 6, 7, 12, 13, 14, 15))
    for (int64_t r = 0; r < count; r += 8) {
        NAME(eight) pair[4], sum;
        for (int i = 0; i < 4; i++) {
            const REAL *row = rows + 8 * (r + 2 * i);
            pair[i] = ONES(NAME(get)(row), NAME(get)(row + 8));
        }
        NAME(eight) low = TWOS(pair[0], pair[1]), high = TWOS(pair[2], pair[3]);
        sum = FOURS(low, high);
        if (r + 8 <= count)
            EIGHT(x + r) += sum;
        else
            for (int64_t i = r; i < count; i++) x[i] += sum[i - r];
    }
#undef TURN
#undef ONES
#undef TWOS
#undef FOURS
#else
    for (int64_t r = 0; r < count; r++) x[r] += NAME(sum)(NAME(get)(rows + 8 * r));
#endif
}

/* The term of each node itself, out_n[m] = sum over s of D_n[s, m] (q_n . k_n) v_n[s]. */
static void NAME(cells_own)(const NAME(cell) *x, const REAL *direct, const int64_t *node,
                            int64_t nodes) {
    const NAME(unit) *u = &x->u;
    if (x->S == 1 && x->M == 1) {
        NAME(own)(u->out, u->query, u->key, u->value, direct, node, nodes, u->heads, u->K, u->V);
        return;
    }
    for (int64_t i = 0; i < nodes; i++) {
        int64_t n = node[i] * u->heads;
        const REAL *v = NAME(of)(u->value, node[i]), *D = direct + n * x->S * x->M;
        REAL qk = NAME(dot)(NAME(of)(u->query, node[i]), NAME(of)(u->key, node[i]), u->K);
        REAL *out = u->out + n * x->M * u->V;
        memset(out, 0, x->M * u->V * sizeof(REAL));
        for (int64_t s = 0; s < x->S; s++)
            for (int64_t m = 0; m < x->M; m++)
                NAME(axpy)(out + m * u->V, D[s * x->M + m] * qk, v + s * u->V, u->V);
    }
}

/* Its gradients, which those of the edges are added to. */
static void NAME(cells_own_backward)(const NAME(cell) *x, const REAL *direct, REAL *d_direct,
                                     const int64_t *node, int64_t nodes) {
    const NAME(unit) *u = &x->u;
    if (x->S == 1 && x->M == 1) {
        NAME(own_backward)(u->d_query, u->d_key, u->d_value, d_direct, u->grad, u->query, u->key,
                           u->value, direct, node, nodes, u->heads, u->K, u->V);
        return;
    }
    for (int64_t i = 0; i < nodes; i++) {
        int64_t n = node[i] * u->heads, gate = n * x->S * x->M;
        const REAL *q = NAME(of)(u->query, node[i]), *k = NAME(of)(u->key, node[i]);
        const REAL *v = NAME(of)(u->value, node[i]), *g = NAME(of)(u->grad, node[i]);
        REAL qk = NAME(dot)(q, k, u->K), both = 0, *d_value = u->d_value + n * x->S * u->V;
        memset(d_value, 0, x->S * u->V * sizeof(REAL));
        for (int64_t s = 0; s < x->S; s++)
            for (int64_t m = 0; m < x->M; m++, gate++) {
                REAL gv = NAME(dot)(g + m * u->V, v + s * u->V, u->V);
                d_direct[gate] = qk * gv;
                both += direct[gate] * gv;
                NAME(axpy)(d_value + s * u->V, direct[gate] * qk, g + m * u->V, u->V);
            }
        for (int64_t r = 0; r < u->K; r++) u->d_query[n * u->K + r] = both * k[r];
        for (int64_t r = 0; r < u->K; r++) u->d_key[n * u->K + r] = both * q[r];
    }
}

/* G states of an edge: left right^T, or what is there, if this is more of them, and T (.) state of
 * n line edges, where t[l] is [J, G]. If there is a reader, sums = reader^T state. */
INLINE void NAME(block_rows)(REAL *to, const REAL **t, const REAL **from, const REAL *left,
                             const REAL *right, const REAL *reader, REAL *sums, int64_t K,
                             int more, int64_t n, int64_t J, int64_t W, int G) {
    int64_t size = K * W;
    NAME(eight) sum[GROUP][4];
    for (int g = 0; g < G; g++) EACH(j) sum[g][j] = (NAME(eight)){0};
    for (int64_t r = 0; r < K; r++) {
        NAME(eight) y[GROUP][4];
        for (int g = 0; g < G; g++)
            EACH(j) {
                if (more)
                    y[g][j] = NAME(get)(to + g * size + r * W + 8 * j);
                else
                    y[g][j] = left[r] * NAME(get)(right + g * W + 8 * j);
            }
        for (int64_t l = 0; l < n; l++)
            for (int64_t in = 0; in < J; in++) {
                NAME(eight) c[4];
                EACH(j) c[j] = NAME(get)(from[l] + in * size + r * W + 8 * j);
                for (int g = 0; g < G; g++) EACH(j) y[g][j] += t[l][in * G + g] * c[j];
            }
        for (int g = 0; g < G; g++)
            EACH(j) {
                EIGHT(to + g * size + r * W + 8 * j) = y[g][j];
                if (reader) sum[g][j] += reader[r] * y[g][j];
            }
    }
    if (reader)
        for (int g = 0; g < G; g++) EACH(j) EIGHT(sums + g * W + 8 * j) = sum[g][j];
}

#define ROWS_OF(n, J, G) \
    NAME(block_rows)(to, t, from, left, right, reader, sums, K, more, n, J, W, G)
#define FEW(J)                           \
    switch (n) {                         \
        case 0: ROWS_OF(0, J, J); break; \
        case 1: ROWS_OF(1, J, J); break; \
        case 2: ROWS_OF(2, J, J); break; \
        default: ROWS_OF(n, J, J);       \
    }

/* The same with constants where J and n are small. */
INLINE void NAME(group)(REAL *to, const REAL **t, const REAL **from, const REAL *left,
                        const REAL *right, const REAL *reader, REAL *sums, int64_t K, int more,
                        int64_t n, int64_t J, int G, int64_t W) {
    switch (J <= GROUP ? -J : G) {
        case -4: FEW(4) break;
        case -3: FEW(3) break;
        case -2: FEW(2) break;
        case -1: FEW(1) break;
        case 1: ROWS_OF(n, J, 1); break;
        case 2: ROWS_OF(n, J, 2); break;
        case 3: ROWS_OF(n, J, 3); break;
        default: ROWS_OF(n, J, 4);
    }
}

/* A function for each W: few, as compilers take long over each. */
#define WITH(W)                                                                                \
    APART void NAME(group_##W)(REAL *to, const REAL **t, const REAL **from, const REAL *left,  \
                               const REAL *right, const REAL *reader, REAL *sums, int64_t K,   \
                               int more, int64_t n, int64_t J, int G) {                        \
        NAME(group)(to, t, from, left, right, reader, sums, K, more, n, J, G, W);              \
    }
WITH(8)
WITH(16)
WITH(24)
#undef WITH

/* The rows [first, first + G) of a block that is [J, J], as columns: [J, G]. */
INLINE void NAME(turn)(REAL *to, const REAL *block, int64_t J, int64_t G) {
    for (int64_t j = 0; j < J; j++)
        for (int64_t g = 0; g < G; g++) to[j * G + g] = block[g * J + j];
}

/* All states of place i, in groups, from a few line edges at a time; backward their blocks are
 * transposed. */
INLINE void NAME(blocks)(const NAME(cell) *x, REAL *states, int64_t i, const NAME(lines) *lines,
                         const REAL *left, const REAL *right, const REAL *reader, REAL *sums,
                         int transposed, int64_t W) {
    int64_t J = x->J, size = x->u.K * W, end = lines->ptr[i + 1];
    for (int64_t first = 0; first < J; first += GROUP) {
        int64_t G = J - first < GROUP ? J - first : GROUP, l = lines->ptr[i];
        int more = 0;
        do {
            const REAL *from[GROUP], *t[GROUP];
            int64_t n = 0;
            for (; n < GROUP && l < end; n++, l++) {
                const REAL *block = x->u.transition + lines->line[l] * x->u.step;
                REAL *to = x->turned + n * J * GROUP;
                from[n] = states + (lines->other[l] - lines->start) * J * size;
                t[n] = to;
                if (transposed && J <= GROUP)
                    t[n] = block;
                else if (transposed)
                    for (int64_t j = 0; j < J; j++)
                        for (int64_t g = 0; g < G; g++) to[j * G + g] = block[j * J + first + g];
                else if (J == 4)
                    NAME(turn)(to, block, 4, 4);
                else
                    NAME(turn)(to, block + first * J, J, G);
            }
            (W == 8 ? NAME(group_8) : W == 16 ? NAME(group_16) : NAME(group_24))(
                states + (i * J + first) * size, t, from, left, right + first * W,
                l < end ? 0 : reader, sums + first * W, x->u.K, more, n, J, G);
            more = 1;
        } while (l < end);
    }
}

/* d[g, h] += row g of a . row h of b, rows of `size` numbers, those of d J apart. */
INLINE void NAME(pairs)(REAL *d, const REAL *a, const REAL *b, int64_t J, int64_t size, int G,
                        int H) {
    NAME(eight) sum[GROUP][GROUP] = {0};
    for (int64_t i = 0; i < size; i += 8)
        for (int g = 0; g < G; g++)
            for (int h = 0; h < H; h++)
                sum[g][h] += NAME(get)(a + g * size + i) * NAME(get)(b + h * size + i);
    for (int g = 0; g < G; g++)
        for (int h = 0; h < H; h++) d[g * J + h] += NAME(sum)(sum[g][h]);
}

/* d[i, j] += matrix i of a . matrix j of b. */
APART void NAME(all_pairs)(REAL *d, const REAL *a, const REAL *b, int64_t J, int64_t size) {
#define PAIRS(G, H) \
    NAME(pairs)(d + i * J + j, a + i * size, b + j * size, J, size, G, H)
#define PAIRS_WITH(H) \
    switch (J - i) { \
        case 1: PAIRS(1, H); break; \
        case 2: PAIRS(2, H); break; \
        case 3: PAIRS(3, H); break; \
        default: PAIRS(4, H); \
    } \
    break
    for (int64_t i = 0; i < J; i += GROUP)
        for (int64_t j = 0; j < J; j += GROUP) switch (J - j) {
                case 1: PAIRS_WITH(1);
                case 2: PAIRS_WITH(2);
                case 3: PAIRS_WITH(3);
                default: PAIRS_WITH(4);
            }
#undef PAIRS
#undef PAIRS_WITH
}

/* What comes into an edge by numbers or rows: state = sum of t[m] from[m]; sum += key^T state. */
INLINE void NAME(enter)(REAL *state, const REAL **t, const REAL **from, const REAL *key,
                        NAME(eight) *sum, int64_t rows, int kind, int64_t W, int n) {
    REAL a[2];
    for (int m = 0; m < n && m < 2; m++) a[m] = *t[m];
    for (int64_t r = 0; r < rows; r++)
        EACH(j) {
            int64_t at = r * W + 8 * j;
            NAME(eight) y = {0};
            if (n > 2) y = NAME(get)(state + at);
            for (int m = 0; m < n && m < 2; m++)
                y += (kind == ROWS ? t[m][r] : a[m]) * NAME(get)(from[m] + at);
            EIGHT(state + at) = y;
            sum[j] += key[r] * y;
        }
}

/* state += key change^T, after the last reflection also left right^T; sum = reader^T state. */
INLINE void NAME(reflect)(REAL *state, const REAL *key, const NAME(eight) *change,
                          const REAL *left, const NAME(eight) *right, const REAL *reader,
                          NAME(eight) *sum, int64_t rows, int64_t W, int last, int reads) {
    if (reads) EACH(j) sum[j] = (NAME(eight)){0};
    for (int64_t r = 0; r < rows; r++)
        EACH(j) {
            NAME(eight) y = NAME(get)(state + r * W + 8 * j) + key[r] * change[j];
            if (last) y += left[r] * right[j];
            EIGHT(state + r * W + 8 * j) = y;
            if (reads) sum[j] += reader[r] * y;
        }
}

/* All reflections of one of the states of the edge at place i, which starts at node s; sum is
 * k_0^T state before, reader^T state behind them, if it is read. */
INLINE void NAME(reflections)(const NAME(cell) *x, REAL *state, REAL *errors, const REAL *beta,
                              REAL source, int64_t s, const NAME(eight) *right, const REAL *reader,
                              NAME(eight) *sum, int reads, int kind, int64_t W) {
    const NAME(unit) *u = &x->u;
    const REAL *key = NAME(of)(x->keys, s), *written = NAME(of)(x->written, s);
    for (int64_t r = 0; r < x->R; r++, key += u->K, written += u->V, errors += W) {
        NAME(eight) change[4], own[4];
        if (kind != BLOCK) NAME(load)(own, source, written, u->c, u->w, W);
        EACH(j) {
            if (kind != BLOCK) sum[j] -= own[j];
            EIGHT(errors + 8 * j) = sum[j];
            change[j] = -beta[r] * sum[j];
        }
        if (r + 1 < x->R)
            NAME(reflect)(state, key, change, 0, 0, key + u->K, sum, u->K, W, 0, 1);
        else
            NAME(reflect)(state, key, change, NAME(of)(u->key, s), right, reader, sum, u->K, W, 1,
                          reads);
    }
}

/* All states of a unit; forward they are read, out_dst(e)[m] += sum of M_e[j, m] C_e[j]^T q. */
INLINE void NAME(cell_states)(const NAME(cell) *x, int reads, int kind, int64_t W) {
    const NAME(unit) *u = &x->u;
    int64_t size = u->K * W, J = kind == BLOCK ? x->J : 1, S = kind == BLOCK ? x->S : 1;
    int64_t M = kind == BLOCK ? x->M : 1, R = x->R;
    for (int64_t p = 0; p < u->edges; p++) {
        int64_t i = u->reversed ? u->edges - 1 - p : p, e = u->edge[i], gate = e * u->heads;
        int64_t s = u->src[e], d = u->dst[e];
        const REAL *source = u->source + gate * S * J, *mark = u->mark + gate * J * M;
        const REAL *q = NAME(of)(u->query, d), *k = NAME(of)(u->key, s);
        const REAL *v = NAME(of)(u->value, s);
        REAL *errors = x->errors + (reads ? 0 : i * J * R * W), *sums = x->left;
        NAME(eight) sum[4] = {0}, right[4], only[4];
        if (kind == BLOCK)
            NAME(ahead)(u, u->reversed ? i - AHEAD : i + AHEAD, &u->into, J * J, S * J, J * M, 0);
        if (kind == BLOCK) {
            NAME(load)(only, 1, v, u->c, u->w, W);
            for (int64_t j = 0; j < J; j++) {
                NAME(mix)(right, source + j, J, only, v, u->V, S, u->c, u->w, W);
                EACH(b) EIGHT(x->right + j * W + 8 * b) = right[b];
            }
            const REAL *reader = R ? NAME(of)(x->keys, s) : reads ? q : 0;
            NAME(blocks)(x, u->states, i, &u->into, k, R ? x->nothing : x->right, reader, sums, 0,
                         W);
        } else {
            const REAL *t[2], *from[2];
            int64_t n = NAME(gather)(u, u->states, i, &u->into, t, from, 0, 0, u->K, kind, W);
            NAME(load)(right, *source, v, u->c, u->w, W);
            COUNT(n, enter, u->states + i * size, t, from, NAME(of)(x->keys, s), sum, u->K, kind, W)
        }
        for (int64_t j = 0; j < J && (R || reads); j++) {
            if (kind == BLOCK) {
                EACH(b) right[b] = NAME(get)(x->right + j * W + 8 * b);
                EACH(b) sum[b] = NAME(get)(sums + j * W + 8 * b);
            }
            NAME(reflections)(x, u->states + (i * J + j) * size, errors + j * R * W,
                              x->beta + gate * R, *source, s, right, q, sum, reads, kind, W);
            for (int64_t m = 0; m < M && reads; m++)
                NAME(add)(u->out + (d * u->heads * M + m) * u->V, mark[j * M + m], sum, u->c, u->w,
                          W);
        }
    }
}

/* One adjoint state, adjoint = query grad^T + sum of t[m] from[m]; of a block it is there already.
 * What it and the state say: for_query = state grad and for_key = adjoint right, rows of eight
 * numbers to be added; told = query^T state, taught = key^T adjoint, seen = (last key)^T adjoint;
 * dt[m] += state . from[m]. */
INLINE void NAME(cell_adjoint)(REAL *adjoint, const REAL *state, const REAL *query,
                               const NAME(eight) *grad, const REAL *key, const NAME(eight) *right,
                               const REAL *last, const REAL **t, const REAL **from, REAL **dt,
                               REAL *for_query, REAL *for_key, NAME(eight) *told,
                               NAME(eight) *taught, NAME(eight) *seen, int add, int64_t rows,
                               int kind, int64_t W, int n) {
    REAL a[2];
    NAME(eight) dot[2] = {0};
    for (int m = 0; m < n && m < 2; m++) a[m] = *t[m];
    for (int64_t r = 0; r < rows; r++) {
        NAME(eight) of_query = {0}, of_key = {0}, of_row[2] = {0};
        EACH(j) {
            int64_t at = r * W + 8 * j;
            NAME(eight) c = NAME(get)(state + at), x = query[r] * grad[j];
            if (kind == BLOCK)
                x = NAME(get)(adjoint + at);
            else if (n > 2)
                x += NAME(get)(adjoint + at);
            for (int m = 0; m < n && m < 2; m++) {
                NAME(eight) y = NAME(get)(from[m] + at);
                x += (kind == ROWS ? t[m][r] : a[m]) * y;
                if (kind == ROWS)
                    of_row[m] += c * y;
                else
                    dot[m] += c * y;
            }
            if (kind != BLOCK) EIGHT(adjoint + at) = x;
            of_query += c * grad[j];
            of_key += x * right[j];
            told[j] += query[r] * c;
            taught[j] += key[r] * x;
            if (last) seen[j] += last[r] * x;
        }
        if (add) {
            of_query += NAME(get)(for_query + 8 * r);
            of_key += NAME(get)(for_key + 8 * r);
        }
        EIGHT(for_query + 8 * r) = of_query;
        EIGHT(for_key + 8 * r) = of_key;
        if (kind == ROWS)
            for (int m = 0; m < n && m < 2; m++) dt[m][r] += NAME(sum)(of_row[m]);
    }
    if (kind == NUMBER)
        for (int m = 0; m < n && m < 2; m++) *dt[m] += NAME(sum)(dot[m]);
}

/* A reflection backward. The state comes as it is after it (plus left right^T, if it is the last
 * one), the adjoint likewise; both become those before it. With error w, change = -beta w and
 * dw = -beta p, the rows of for_key are adjoint change + state dw; seen = before^T adjoint. */
INLINE void NAME(undo)(REAL *adjoint, REAL *state, const REAL *key, const NAME(eight) *change,
                       const NAME(eight) *dw, const REAL *left, const NAME(eight) *right,
                       const REAL *before, REAL *for_key, NAME(eight) *seen, int64_t rows,
                       int64_t W, int last, int first) {
    if (!first) EACH(j) seen[j] = (NAME(eight)){0};
    for (int64_t r = 0; r < rows; r++) {
        NAME(eight) of_key = {0};
        EACH(j) {
            int64_t at = r * W + 8 * j;
            NAME(eight) c = NAME(get)(state + at) - key[r] * change[j], x = NAME(get)(adjoint + at);
            if (last) c -= left[r] * right[j];
            of_key += x * change[j] + c * dw[j];
            x += key[r] * dw[j];
            EIGHT(adjoint + at) = x;
            if (!first) {
                EIGHT(state + at) = c;
                seen[j] += before[r] * x;
            }
        }
        EIGHT(for_key + 8 * r) = of_key;
    }
}

/* All reflections of a state backward, with the gradients of what they are made of. */
INLINE void NAME(undo_all)(const NAME(cell) *x, REAL *adjoint, REAL *state, const REAL *errors,
                           int64_t e, int64_t s, const NAME(eight) *right, NAME(eight) *seen,
                           int kind, int64_t W) {
    const NAME(unit) *u = &x->u;
    const REAL *keys = NAME(of)(x->keys, s), *written = NAME(of)(x->written, s);
    int64_t gate = e * u->heads, node = s * u->heads * x->R;
    REAL *rows = x->rows + 16 * x->high;
    for (int64_t r = x->R - 1; r >= 0; r--) {
        REAL beta = x->beta[gate * x->R + r];
        const REAL *w = errors + r * W, *key = keys + r * u->K, *left = NAME(of)(u->key, s);
        NAME(eight) change[4], dw[4], p[4], for_beta = {0};
        EACH(j) {
            p[j] = seen[j];
            for_beta -= p[j] * NAME(get)(w + 8 * j);
            change[j] = -beta * NAME(get)(w + 8 * j);
            dw[j] = -beta * p[j];
        }
        x->d_beta[gate * x->R + r] += NAME(sum)(for_beta);
        if (kind != BLOCK) {
            NAME(add)(x->d_written + (node + r) * u->V, beta * u->source[gate], p, u->c, u->w, W);
            u->d_source[gate] += beta * NAME(dot)((REAL *)p, written + r * u->V + u->c, u->w);
        }
#define UNDO(last, first) \
    NAME(undo)(adjoint, state, key, change, dw, left, right, key - u->K, rows, seen, u->K, W, \
               last, first)
        if (x->R == 1)
            UNDO(1, 1);
        else if (r == x->R - 1)
            UNDO(1, 0);
        else if (r > 0)
            UNDO(0, 0);
        else
            UNDO(0, 1);
#undef UNDO
        NAME(add_sums)(x->d_keys + (node + r) * u->K, rows, u->K);
    }
}

/* All adjoint states of a unit whose states are there, and their terms of the gradients. */
INLINE void NAME(cell_adjoints)(const NAME(cell) *x, int kind, int64_t W) {
    const NAME(unit) *u = &x->u;
    int64_t size = u->K * W, J = kind == BLOCK ? x->J : 1, S = kind == BLOCK ? x->S : 1;
    int64_t M = kind == BLOCK ? x->M : 1, R = x->R;
    for (int64_t p = 0; p < u->edges; p++) {
        int64_t i = u->reversed ? p : u->edges - 1 - p, e = u->edge[i], gate = e * u->heads;
        int64_t s = u->src[e], d = u->dst[e], of_source = gate * S * J, of_mark = gate * J * M;
        const REAL *q = NAME(of)(u->query, d), *k = NAME(of)(u->key, s);
        const REAL *v = NAME(of)(u->value, s), *g = NAME(of)(u->grad, d);
        const REAL *last = R ? NAME(of)(x->keys, s) + (R - 1) * u->K : 0;
        REAL *state = u->states + i * J * size, *adjoint = u->adjoints + i * J * size;
        if (kind == BLOCK)
            NAME(ahead)(u, u->reversed ? i + AHEAD : i - AHEAD, &u->from, J * J, S * J, J * M, 1);
        REAL *for_query = x->rows, *for_key = x->rows + 8 * x->high;
        NAME(eight) only_v[4], only_g[4];
        NAME(load)(only_v, 1, v, u->c, u->w, W);
        NAME(load)(only_g, 1, g, u->c, u->w, W);
        if (kind == BLOCK) {
            NAME(eight) grad[4];
            for (int64_t j = 0; j < J; j++) {
                NAME(mix)(grad, u->mark + of_mark + j * M, 1, only_g, g, u->V, M, u->c, u->w, W);
                EACH(b) EIGHT(x->left + j * W + 8 * b) = grad[b];
            }
            NAME(blocks)(x, u->adjoints, i, &u->from, q, x->left, 0, 0, 1, W);
            for (int64_t l = u->from.ptr[i]; l < u->from.ptr[i + 1]; l++)
                NAME(all_pairs)(u->d_transition + u->from.line[l] * u->step,
                                u->adjoints + (u->from.other[l] - u->from.start) * J * size, state,
                                J, size);
        }
        for (int64_t j = 0; j < J; j++, state += size, adjoint += size) {
            NAME(eight) grad[4], right[4], told[4] = {0}, taught[4] = {0}, seen[4] = {0};
            const REAL *t[2], *from[2];
            REAL *dt[2];
            NAME(mix)(right, u->source + of_source + j, J, only_v, v, u->V, S, u->c, u->w, W);
            if (kind == BLOCK) {
                EACH(b) grad[b] = NAME(get)(x->left + j * W + 8 * b);
                NAME(cell_adjoint)(adjoint, state, q, grad, k, right, last, t, from, dt, for_query,
                                   for_key, told, taught, seen, j > 0, u->K, kind, W, 0);
            } else {
                int64_t n = NAME(gather)(u, u->adjoints, i, &u->from, t, from, state,
                                         u->d_transition, u->K, kind, W);
                for (int64_t m = 0; m < n && m < 2; m++)
                    dt[m] = u->d_transition + (t[m] - u->transition);
                EACH(b) grad[b] = u->mark[gate] * only_g[b];
                COUNT(n, cell_adjoint, adjoint, state, q, grad, k, right, last, t, from, dt,
                      for_query, for_key, told, taught, seen, 0, u->K, kind, W)
            }
            NAME(unmix)(u->d_mark + of_mark + j * M, 1, only_g, g, u->V, M, told, u->c, u->w, W);
            NAME(unmix)(u->d_source + of_source + j, J, only_v, v, u->V, S, taught, u->c, u->w, W);
            for (int64_t r = 0; r < S; r++)
                NAME(add)(u->d_value + (s * u->heads * S + r) * u->V,
                          u->source[of_source + r * J + j], taught, u->c, u->w, W);
            NAME(undo_all)(x, adjoint, state, x->errors + (i * J + j) * R * W, e, s, right, seen,
                           kind, W);
        }
        NAME(add_sums)(u->d_query + d * u->heads * u->K, for_query, u->K);
        NAME(add_sums)(u->d_key + s * u->heads * u->K, for_key, u->K);
    }
}

/* A tile of columns, for each kind and W. */
#define WITH(kind, W)                                                \
    APART void NAME(cells_forward_##kind##_##W)(const NAME(cell) *x) {  \
        NAME(cell_states)(x, 1, kind, W);                            \
    }                                                                \
    APART void NAME(cells_backward_##kind##_##W)(const NAME(cell) *x) { \
        NAME(cell_states)(x, 0, kind, W);                            \
        NAME(cell_adjoints)(x, kind, W);                             \
    }
WITH(0, 8)
WITH(0, 16)
WITH(0, 24)
WITH(1, 8)
WITH(1, 16)
WITH(1, 24)
WITH(3, 8)
WITH(3, 16)
WITH(3, 24)

#define CELL_TILES(x, W, function)                                                     \
    for (x.u.c = 0; x.u.c < x.u.V && x.u.edges; x.u.c += W) {                          \
        x.u.w = x.u.V - x.u.c < W ? x.u.V - x.u.c : W;                                 \
        switch (10 * W + kind) {                                                       \
            case 80: NAME(function##_0_8)(&x); break;                                  \
            case 81: NAME(function##_1_8)(&x); break;                                  \
            case 83: NAME(function##_3_8)(&x); break;                                  \
            case 160: NAME(function##_0_16)(&x); break;                                \
            case 161: NAME(function##_1_16)(&x); break;                                \
            case 163: NAME(function##_3_16)(&x); break;                                \
            case 240: NAME(function##_0_24)(&x); break;                                \
            case 241: NAME(function##_1_24)(&x); break;                                \
            default: NAME(function##_3_24)(&x);                                        \
        }                                                                              \
    }

/* Ask for what the units of a part read of the transitions and the reflections. */
static void NAME(ask_all)(const NAME(cell) *x, const REAL *transition, const REAL *keys,
                          const REAL *written, const REAL *d_transition, const REAL *d_keys,
                          const REAL *d_written, const int64_t *lines, int64_t count,
                          const int64_t *node, int64_t nodes) {
    int64_t step = x->u.step, of_keys = x->keys.step, of_written = x->written.step;
    NAME(ask)(transition, step, step, lines, count);
    if (of_keys) {
        NAME(ask)(keys, of_keys, of_keys, node, nodes);
        NAME(ask)(written, of_written, of_written, node, nodes);
    }
    if (!d_transition) return;
    NAME(ask)(d_transition, step, step, lines, count);
    if (of_keys) {
        NAME(ask)(d_keys, of_keys, of_keys, node, nodes);
        NAME(ask)(d_written, of_written, of_written, node, nodes);
    }
}

void NAME(cells_forward)(const REAL *query, const REAL *key, const REAL *value,
                         const REAL *source, const REAL *transition, const REAL *mark,
                         const REAL *direct, const REAL *keys, const REAL *beta,
                         const REAL *written, REAL *out, REAL *work, int64_t first, int64_t last,
                         int64_t heads, int64_t K, int64_t V, int64_t W, int64_t query_step,
                         int64_t key_step, int64_t value_step, int64_t kind, int64_t J, int64_t S,
                         int64_t M, int64_t R, int64_t longest, int64_t reversed,
                         const int64_t *node_ptr, const int64_t *nodes, const int64_t *edge_ptr,
                         const int64_t *edges, const int64_t *line_ptr, const int64_t *line,
                         const int64_t *next, const int64_t *src, const int64_t *dst) {
    int64_t *room = NAME(room)(first, last, heads, edge_ptr, line_ptr);
    int64_t each = kind == BLOCK ? J * J : kind == ROWS ? K : 1;
    REAL *scratch = work + longest * J * K * W;
    memset(scratch + 2 * J * W, 0, J * W * sizeof(REAL));
    NAME(lines) into = {0};
    for (int64_t i = first; i < last; i++) {
        int64_t part = i / heads, h = i % heads, start = edge_ptr[part];
        int64_t count = edge_ptr[part + 1] - start;
        if (i == first || h == 0) {
            into = (NAME(lines)){line_ptr + start, line, next, start};
            if (!reversed) into = NAME(turned)(into, count, room);
        }
        NAME(cell) x = {
            .u = {
                .query = {query + h * K, query_step}, .key = {key + h * K, key_step},
                .value = {value + h * S * V, value_step}, .source = source + h * S * J,
                .transition = transition + h * each, .mark = mark + h * J * M,
                .out = out + h * M * V, .states = work, .into = into, .edge = edges + start,
                .src = src, .dst = dst, .edges = count, .heads = heads, .K = K, .V = V,
                .reversed = reversed, .step = heads * each,
            },
            .keys = {keys + h * R * K, heads * R * K},
            .written = {written + h * R * V, heads * R * V},
            .beta = beta + h * R, .right = scratch, .left = scratch + J * W,
            .nothing = scratch + 2 * J * W, .turned = scratch + 3 * J * W,
            .errors = scratch + 3 * J * W + 16 * J, .J = J, .S = S, .M = M, .R = R,
        };
        NAME(cells_own)(&x, direct + h * S * M, nodes + node_ptr[part],
                        node_ptr[part + 1] - node_ptr[part]);
        if (i == first || h == 0)
            NAME(ask_all)(&x, transition, keys, written, 0, 0, 0, line + line_ptr[start],
                          line_ptr[start + count] - line_ptr[start], nodes + node_ptr[part],
                          node_ptr[part + 1] - node_ptr[part]);
        CELL_TILES(x, W, cells_forward)
    }
    free(room);
}

/* The gradients of the ten inputs from that of the output. All but those of query, key, value and
 * direct are zero before. */
void NAME(cells_backward)(const REAL *grad, const REAL *query, const REAL *key, const REAL *value,
                          const REAL *source, const REAL *transition, const REAL *mark,
                          const REAL *direct, const REAL *keys, const REAL *beta,
                          const REAL *written, REAL *d_query, REAL *d_key, REAL *d_value,
                          REAL *d_source, REAL *d_transition, REAL *d_mark, REAL *d_direct,
                          REAL *d_keys, REAL *d_beta, REAL *d_written, REAL *work, int64_t first,
                          int64_t last, int64_t heads, int64_t K, int64_t V, int64_t W,
                          int64_t query_step, int64_t key_step, int64_t value_step, int64_t kind,
                          int64_t J, int64_t S, int64_t M, int64_t R, int64_t longest,
                          int64_t reversed, const int64_t *node_ptr, const int64_t *nodes,
                          const int64_t *edge_ptr, const int64_t *edges, const int64_t *line_ptr,
                          const int64_t *line, const int64_t *next, const int64_t *src,
                          const int64_t *dst) {
    int64_t *room = NAME(room)(first, last, heads, edge_ptr, line_ptr);
    int64_t each = kind == BLOCK ? J * J : kind == ROWS ? K : 1, size = longest * J * K * W;
    int64_t high = (K + 7) / 8 * 8;
    REAL *scratch = work + 2 * size;
    memset(scratch + 2 * J * W, 0, J * W * sizeof(REAL));
    NAME(lines) later = {0}, earlier = {0};
    for (int64_t i = first; i < last; i++) {
        int64_t part = i / heads, h = i % heads, start = edge_ptr[part];
        int64_t count = edge_ptr[part + 1] - start;
        if (i == first || h == 0) {
            later = (NAME(lines)){line_ptr + start, line, next, start};
            earlier = NAME(turned)(later, count, room);
        }
        NAME(cell) x = {
            .u = {
                .query = {query + h * K, query_step}, .key = {key + h * K, key_step},
                .value = {value + h * S * V, value_step}, .grad = {grad + h * M * V, heads * M * V},
                .source = source + h * S * J, .transition = transition + h * each,
                .mark = mark + h * J * M, .d_query = d_query + h * K, .d_key = d_key + h * K,
                .d_value = d_value + h * S * V, .d_source = d_source + h * S * J,
                .d_transition = d_transition + h * each, .d_mark = d_mark + h * J * M,
                .states = work, .adjoints = work + count * J * K * W,
                .into = reversed ? later : earlier, .from = reversed ? earlier : later,
                .edge = edges + start, .src = src, .dst = dst, .edges = count, .heads = heads,
                .K = K, .V = V, .reversed = reversed, .step = heads * each,
            },
            .keys = {keys + h * R * K, heads * R * K},
            .written = {written + h * R * V, heads * R * V},
            .beta = beta + h * R, .d_keys = d_keys + h * R * K, .d_beta = d_beta + h * R,
            .d_written = d_written + h * R * V, .right = scratch, .left = scratch + J * W,
            .nothing = scratch + 2 * J * W, .turned = scratch + 3 * J * W,
            .rows = scratch + 3 * J * W + 16 * J, .high = high,
            .errors = scratch + 3 * J * W + 16 * J + 24 * high, .J = J, .S = S, .M = M, .R = R,
        };
        NAME(cells_own_backward)(&x, direct + h * S * M, d_direct + h * S * M,
                                 nodes + node_ptr[part], node_ptr[part + 1] - node_ptr[part]);
        if (i == first || h == 0)
            NAME(ask_all)(&x, transition, keys, written, d_transition, d_keys, d_written,
                          line + line_ptr[start], line_ptr[start + count] - line_ptr[start],
                          nodes + node_ptr[part],
                          node_ptr[part + 1] - node_ptr[part]);
        CELL_TILES(x, W, cells_backward)
    }
    free(room);
}

#undef NUMBER
#undef ROWS
#undef COLUMNS
#undef BLOCK
#undef GROUP
#undef FEW
#undef ROWS_OF
#undef COUNT
#undef EIGHT
#undef WITH
#undef CELL_TILES
