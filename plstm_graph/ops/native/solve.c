/* Unit triangular systems of line graphs, in place: included once for each REAL.
 *
 * system [units, edges, edges] holds -T, below the diagonal or (upper) above it, rows
 * [units, edges, width] becomes (I - T)^-1 rows, or by the transpose (adjoint). Most of T is zero:
 * an edge has few predecessors, so a row costs its look-up and a few additions.
 */
void NAME(solve)(const REAL *system, REAL *rows, REAL *work, int64_t first, int64_t last,
                 int64_t edges, int64_t width, int64_t upper, int64_t adjoint) {
    (void)work;
    for (int64_t unit = first; unit < last; unit++) {
        const REAL *s = system + unit * edges * edges;
        REAL *y = rows + unit * edges * width;
        for (int64_t i = 0; i < edges; i++) {
            int64_t e = upper != adjoint ? edges - 1 - i : i;
            int64_t from = upper ? e + 1 : 0, to = upper ? edges : e;
            for (int64_t f = from; f < to; f++) {
                REAL t = -s[e * edges + f];
                if (t == 0) continue;
                if (adjoint)
                    NAME(axpy)(y + f * width, t, y + e * width, width);
                else
                    NAME(axpy)(y + e * width, t, y + f * width, width);
            }
        }
    }
}
