/* The scan of scan.py on a level schedule, in place: included once for each REAL.
 *
 * A unit of work is a head. payload [E, heads, width] is in the order of the schedule, transition
 * [L, heads] in the caller's order of line edges. Line edges come level by level, so the start of
 * each is complete when it is read. A step has five numbers: first edge, edges, first line edge,
 * line edges, and the offset of its segments, or -1 where each edge has one line edge.
 */
void NAME(scan)(REAL *payload, const REAL *transition, REAL *work, int64_t first, int64_t last,
                int64_t heads, int64_t width, int64_t steps, const int64_t *step,
                const int64_t *line_order, const int64_t *tail, const int64_t *segment_ptr) {
    (void)work;
    for (int64_t h = first; h < last; h++)
        for (const int64_t *s = step; s < step + 5 * steps; s += 5)
            for (int64_t i = 0; i < s[1]; i++) {
                REAL *row = payload + ((s[0] + i) * heads + h) * width;
                int64_t from = s[2] + i, to = from + 1;
                if (s[4] >= 0) {
                    from = s[2] + segment_ptr[s[4] + i];
                    to = s[2] + segment_ptr[s[4] + i + 1];
                }
                for (int64_t l = from; l < to; l++)
                    NAME(axpy)
                    (row, transition[line_order[l] * heads + h],
                     payload + (tail[l] * heads + h) * width, width);
            }
}
