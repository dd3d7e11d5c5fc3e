from plstm_graph.ops.naive import naive_dag_scan, naive_plstm


def plstm(query, key, value, source, transition, mark, direct, line_graph, *, scale=1.0, form="auto", backend="auto"):
    return naive_plstm(query, key, value, source, transition, mark, direct, line_graph, scale=scale)


def dag_scan(x, transition, line_graph, *, reverse=False, backend="auto"):
    return naive_dag_scan(x, transition, line_graph.reverse() if reverse else line_graph)
