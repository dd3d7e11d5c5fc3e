/* The scans of semiring.py on a level schedule, in place: included once for each REAL.
 *
 * Units, payload, transition and steps as in scan.c; both are logarithms. The maximum of what an
 * edge has met so far is kept in its row, and the sum of exp(value - maximum) in the work space.
 * Where a larger value comes, the sum is scaled down, so that exp() never exceeds 1. The logarithm
 * of the sum is added when all line edges into a level are done, before the level is read.
 */

static inline REAL NAME(exp_of)(REAL x) {
    return sizeof(REAL) == sizeof(float) ? (REAL)expf((float)x) : (REAL)exp((double)x);
}

static inline REAL NAME(log_of)(REAL x) {
    return sizeof(REAL) == sizeof(float) ? (REAL)logf((float)x) : (REAL)log((double)x);
}

/* The row and its sum with one more predecessor. Equal values are compared first: -inf meets -inf
 * without NaN. NaN fails all comparisons and stays. */
static inline void NAME(log_add)(REAL *restrict row, REAL *restrict sum, REAL a,
                                 const REAL *restrict x, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        REAL value = a + x[i], most = row[i];
        if (value > most) {
            sum[i] = sum[i] * NAME(exp_of)(most - value) + 1;
            row[i] = value;
        } else {
            sum[i] += value == most ? 1 : NAME(exp_of)(value - most);
        }
    }
}

static inline void NAME(log_max)(REAL *restrict row, REAL a, const REAL *restrict x, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        REAL value = a + x[i];
        row[i] = value > row[i] || value != value ? value : row[i];
    }
}

/* work: [E, width] sums for log-sum-exp. */
void NAME(semiring)(REAL *payload, const REAL *transition, REAL *work, int64_t first, int64_t last,
                    int64_t heads, int64_t width, int64_t sums, int64_t edges, int64_t steps,
                    const int64_t *step, const int64_t *line_order, const int64_t *tail,
                    const int64_t *segment_ptr) {
    const int64_t *end = step + 5 * steps;
    for (int64_t h = first; h < last; h++) {
        if (sums)
            for (int64_t i = 0; i < edges * width; i++) work[i] = 1;
        const int64_t *level = step; /* the first step of the level, which has all its edges */
        for (const int64_t *s = step; s < end; s += 5) {
            for (int64_t i = 0; i < s[1]; i++) {
                int64_t edge = s[0] + i, from = s[2] + i, to = from + 1;
                REAL *row = payload + (edge * heads + h) * width;
                if (s[4] >= 0) {
                    from = s[2] + segment_ptr[s[4] + i];
                    to = s[2] + segment_ptr[s[4] + i + 1];
                }
                for (int64_t l = from; l < to; l++) {
                    REAL a = transition[line_order[l] * heads + h];
                    const REAL *x = payload + (tail[l] * heads + h) * width;
                    if (sums)
                        NAME(log_add)(row, work + edge * width, a, x, width);
                    else
                        NAME(log_max)(row, a, x, width);
                }
            }
            if (s + 5 < end && s[5] == level[0]) continue;
            for (int64_t i = level[0]; sums && i < level[0] + level[1]; i++)
                for (int64_t j = 0; j < width; j++)
                    payload[(i * heads + h) * width + j] += NAME(log_of)(work[i * width + j]);
            level = s + 5;
        }
    }
}

static inline REAL NAME(finite)(REAL x) { return x == -INFINITY ? 0 : x; }

/* The logarithms of gates in the gauge of gauge.py, from those of the gates and of the scan:
 * m_edge [E, heads] and source, mark like it, transition [L, heads, channels], direct [N, heads].
 * work: [N] sums. */
void NAME(gauge)(const REAL *source, const REAL *transition, const REAL *mark, const REAL *direct,
                 const REAL *m_edge, REAL *new_source, REAL *new_transition, REAL *new_mark,
                 REAL *new_direct, REAL *base, REAL *m_node, REAL *work, int64_t first,
                 int64_t last, int64_t heads, int64_t channels, int64_t sums, int64_t nodes,
                 int64_t edges, int64_t lines, const int64_t *e_in, const int64_t *e_out,
                 const int64_t *dst) {
    for (int64_t h = first; h < last; h++) {
        for (int64_t i = h; i < nodes * heads; i += heads) m_node[i] = direct[i];
        for (int64_t e = 0, i = h; e < edges; e++, i += heads)
            NAME(log_max)(m_node + dst[e] * heads + h, mark[i], m_edge + i, 1);
        if (sums) {
            for (int64_t n = 0, i = h; n < nodes; n++, i += heads) {
                m_node[i] = NAME(finite)(m_node[i]);
                work[n] = NAME(exp_of)(direct[i] - m_node[i]);
            }
            for (int64_t e = 0, i = h; e < edges; e++, i += heads)
                work[dst[e]] += NAME(exp_of)(mark[i] + m_edge[i] - m_node[dst[e] * heads + h]);
            for (int64_t n = 0, i = h; n < nodes; n++, i += heads)
                m_node[i] += NAME(log_of)(work[n]);
        }
        for (int64_t i = h; i < nodes * heads; i += heads) {
            m_node[i] = NAME(finite)(m_node[i]);
            new_direct[i] = direct[i] - m_node[i];
        }
        for (int64_t e = 0, i = h; e < edges; e++, i += heads) {
            base[i] = NAME(finite)(m_edge[i]);
            new_source[i] = source[i] - base[i];
            new_mark[i] = mark[i] + (m_edge[i] - m_node[dst[e] * heads + h]);
        }
        for (int64_t l = 0, i = h; l < lines; l++, i += heads) {
            REAL step = m_edge[e_in[l] * heads + h] - base[e_out[l] * heads + h];
            for (int64_t k = i * channels; k < (i + 1) * channels; k++)
                new_transition[k] = transition[k] + step;
        }
    }
}
