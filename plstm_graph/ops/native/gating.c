/* The gating matrix of one graph, forward and backward: see gating.py for the shapes.
 *
 * This file is included once for each REAL (float, double), with NAME(x) giving the names.
 *
 * A unit of work is a head: all its views, one after the other. The gating row of edge e,
 *
 *     row_e = S_e onehot(src(e)) + sum over l = (e', e) of T_l row_e',
 *
 * is zero outside of the columns [lo_e, hi_e) of its ancestors, and columns never mix. So columns
 * are cut in tiles narrow enough that the rows of all edges stay in the cache.
 */

/* The part of [low, high) that lies in the tile [c, c + w), counted from c; empty if from >= to.
 * Its ends are moved out to multiples of 8, so that few loops have a remainder: rows are zero there. */
#define RANGE(low, high)                              \
    int64_t from = (low) - c, to = (high) - c;        \
    if (from < 0) from = 0;                           \
    if (to > w) to = w;                               \
    if (from < to) {                                  \
        from &= -8, to = (to + 7) & -8;               \
        if (to > w) to = w;                           \
    }
#define CLIP(e) RANGE(lo[e], hi[e])
#define CLIP_NODE(n) RANGE(range[2 * (n)], range[2 * (n) + 1])

/* Rows of all edges in the columns [c, c + w), rows [E, width]. */
static void NAME(rows)(const REAL *source, const REAL *transition, REAL *rows, int64_t c,
                       int64_t w, int64_t width, int64_t edges, const int64_t *order,
                       const int64_t *ptr, const int64_t *before, const int64_t *line,
                       const int64_t *src, const int64_t *lo, const int64_t *hi) {
    for (int64_t i = 0; i < edges; i++) {
        int64_t e = order[i];
        CLIP(e)
        if (from >= to) continue;
        REAL *row = rows + e * width;
        memset(row + from, 0, (to - from) * sizeof(REAL));
        for (int64_t p = ptr[e]; p < ptr[e + 1]; p++) {
            int64_t d = before[p];
            CLIP(d)
            if (from < to)
                NAME(axpy)(row + from, transition[line[p]], rows + d * width + from, to - from);
        }
        if (src[e] >= c && src[e] < c + w) row[src[e] - c] += source[e];
    }
}

/* What node n hears of lies in the columns [from, to) of its edges' ranges together; 2 N numbers. */
static void NAME(hears)(int64_t *range, int64_t nodes, int64_t edges, const int64_t *dst,
                        const int64_t *lo, const int64_t *hi) {
    for (int64_t n = 0; n < nodes; n++) range[2 * n] = nodes, range[2 * n + 1] = 0;
    for (int64_t e = 0; e < edges; e++) {
        int64_t *r = range + 2 * dst[e];
        if (lo[e] < r[0]) r[0] = lo[e];
        if (hi[e] > r[1]) r[1] = hi[e];
    }
}

/* ends[k]: the first place behind k up to which a view's numbers have one step: mirror images have
 * steps of 1 and -1 along whole rows, which are copied as vectors. */
static void NAME(runs)(int64_t *ends, const int64_t *place, int64_t nodes) {
    for (int64_t k = nodes - 1; k >= 0; k--) {
        int more = k + 2 < nodes && place[k + 2] - place[k + 1] == place[k + 1] - place[k];
        ends[k] = more ? ends[k + 1] : k + 2 < nodes ? k + 2 : nodes;
    }
}

/* to[k] = in[place[k]] for first <= k < last. */
static void NAME(take)(REAL *to, const REAL *in, const int64_t *place, const int64_t *ends,
                       int64_t first, int64_t last) {
    for (int64_t k = first, end; k < last; k = end) {
        end = ends[k] < last ? ends[k] : last;
        int64_t p = place[k], step = end > k + 1 ? place[k + 1] - p : 1;
        if (step == 1)
            for (int64_t i = 0; i < end - k; i++) to[k + i] = in[p + i];
        else if (step == -1)
            for (int64_t i = 0; i < end - k; i++) to[k + i] = in[p - i];
        else
            for (int64_t i = 0; i < end - k; i++) to[k + i] = in[p + i * step];
    }
}

/* out[place[k]] += from[k] for first <= k < last; no number stands twice in a view. */
static void NAME(give)(REAL *restrict out, const REAL *restrict from, const int64_t *place,
                       const int64_t *ends, int64_t first, int64_t last) {
    for (int64_t k = first, end; k < last; k = end) {
        end = ends[k] < last ? ends[k] : last;
        int64_t p = place[k], step = end > k + 1 ? place[k + 1] - p : 1;
        if (step == 1)
            for (int64_t i = 0; i < end - k; i++) out[p + i] += from[k + i];
        else if (step == -1)
            for (int64_t i = 0; i < end - k; i++) out[p - i] += from[k + i];
        else
            for (int64_t i = 0; i < end - k; i++) out[p + i * step] += from[k + i];
    }
}

/* G[view(n), view(m)] of heads [first, last) summed over views; G [heads, N, N]. */
void NAME(gating_forward)(const REAL *source, const REAL *transition, const REAL *mark,
                          const REAL *direct, REAL *gating, REAL *work, int64_t first,
                          int64_t last, int64_t heads, int64_t views, int64_t nodes,
                          int64_t edges, int64_t lines, int64_t width, const int64_t *view,
                          const int64_t *order, const int64_t *ptr, const int64_t *before,
                          const int64_t *line, const int64_t *src, const int64_t *dst,
                          const int64_t *lo, const int64_t *hi) {
    REAL *rows = work, *part = work + edges * width; /* [E, width], [N, width] */
    int64_t *range = malloc(3 * nodes * sizeof(int64_t)), *ends = range + 2 * nodes;
    NAME(hears)(range, nodes, edges, dst, lo, hi);
    for (int64_t h = first; h < last; h++) {
        REAL *g = gating + h * nodes * nodes;
        memset(g, 0, nodes * nodes * sizeof(REAL));
        for (int64_t o = 0; o < views; o++) {
            int64_t head = o * heads + h;
            const int64_t *place = view + o * nodes;
            const REAL *m = mark + head * edges;
            NAME(runs)(ends, place, nodes);
            for (int64_t c = 0; c < nodes; c += width) {
                int64_t w = nodes - c < width ? nodes - c : width;
                NAME(rows)
                (source + head * edges, transition + head * lines, rows, c, w, width, edges,
                 order, ptr, before, line, src, lo, hi);
                for (int64_t n = 0; n < nodes; n++) {
                    CLIP_NODE(n)
                    if (from < to) memset(part + n * width + from, 0, (to - from) * sizeof(REAL));
                }
                for (int64_t e = 0; e < edges; e++) {
                    CLIP(e)
                    if (from < to)
                        NAME(axpy)(part + dst[e] * width + from, m[e], rows + e * width + from,
                                   to - from);
                }
                for (int64_t n = 0; n < nodes; n++) {
                    REAL *out = g + place[n] * nodes;
                    CLIP_NODE(n)
                    NAME(give)(out, part + n * width - c, place, ends, c + from, c + to);
                }
            }
            for (int64_t n = 0; n < nodes; n++)
                g[place[n] * (nodes + 1)] += direct[head * nodes + n];
        }
    }
    free(range);
}

/* The gradients, head-major like the gates, from the gradient of G. */
void NAME(gating_backward)(const REAL *grad, const REAL *source, const REAL *transition,
                           const REAL *mark, REAL *d_source, REAL *d_transition, REAL *d_mark,
                           REAL *d_direct, REAL *work, int64_t first, int64_t last,
                           int64_t heads, int64_t views, int64_t nodes, int64_t edges,
                           int64_t lines, int64_t width, const int64_t *view,
                           const int64_t *order, const int64_t *ptr, const int64_t *before,
                           const int64_t *line, const int64_t *src, const int64_t *dst,
                           const int64_t *lo, const int64_t *hi) {
    REAL *rows = work, *adjoint = work + edges * width, *part = work + 2 * edges * width;
    int64_t *range = malloc(3 * nodes * sizeof(int64_t)), *ends = range + 2 * nodes;
    NAME(hears)(range, nodes, edges, dst, lo, hi);
    for (int64_t h = first; h < last; h++) {
        const REAL *g = grad + h * nodes * nodes;
        for (int64_t o = 0; o < views; o++) {
            int64_t head = o * heads + h;
            const int64_t *place = view + o * nodes;
            const REAL *t = transition + head * lines, *m = mark + head * edges;
            REAL *dt = d_transition + head * lines, *dm = d_mark + head * edges;
            REAL *ds = d_source + head * edges;
            NAME(runs)(ends, place, nodes);
            memset(dt, 0, lines * sizeof(REAL));
            memset(dm, 0, edges * sizeof(REAL));
            for (int64_t c = 0; c < nodes; c += width) {
                int64_t w = nodes - c < width ? nodes - c : width;
                NAME(rows)
                (source + head * edges, t, rows, c, w, width, edges, order, ptr, before, line,
                 src, lo, hi);
                for (int64_t n = 0; n < nodes; n++) {
                    const REAL *in = g + place[n] * nodes;
                    CLIP_NODE(n)
                    NAME(take)(part + n * width - c, in, place, ends, c + from, c + to);
                }
                for (int64_t e = 0; e < edges; e++) {
                    CLIP(e)
                    if (from >= to) continue;
                    const REAL *in = part + dst[e] * width + from;
                    REAL *a = adjoint + e * width + from;
                    dm[e] += NAME(dot)(in, rows + e * width + from, to - from);
                    for (int64_t k = 0; k < to - from; k++) a[k] = m[e] * in[k];
                }
                /* Against the order, an edge has heard of all that it was passed on to. */
                for (int64_t i = edges - 1; i >= 0; i--) {
                    int64_t e = order[i];
                    const REAL *a = adjoint + e * width;
                    for (int64_t p = ptr[e]; p < ptr[e + 1]; p++) {
                        int64_t d = before[p], l = line[p];
                        CLIP(d)
                        if (from >= to) continue;
                        dt[l] += NAME(dot)(rows + d * width + from, a + from, to - from);
                        NAME(axpy)(adjoint + d * width + from, t[l], a + from, to - from);
                    }
                    if (src[e] >= c && src[e] < c + w) ds[e] = a[src[e] - c];
                }
            }
            for (int64_t n = 0; n < nodes; n++)
                d_direct[head * nodes + n] = g[place[n] * (nodes + 1)];
        }
    }
    free(range);
}

#undef RANGE
#undef CLIP
#undef CLIP_NODE
