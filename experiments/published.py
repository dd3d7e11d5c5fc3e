"""Published numbers, each in one place; tables print them beside ours."""

# arXiv 2506.11997: test accuracy, 10-fold cross-validation.
TU = {
    "GAT": {"MUTAG": 0.7822, "NCI1": 0.7968, "PROTEINS": 0.7215, "PTC_FM": 0.6105, "AVG": 0.7277},
    "GCN": {"MUTAG": 0.7234, "NCI1": 0.7852, "PROTEINS": 0.7395, "PTC_FM": 0.6162, "AVG": 0.7161},
    "GIN": {"MUTAG": 0.8251, "NCI1": 0.8175, "PROTEINS": 0.7350, "PTC_FM": 0.6097, "AVG": 0.7468},
    "LSTM-GNN": {
        "MUTAG": 0.7450, "NCI1": 0.7951, "PROTEINS": 0.7503, "PTC_FM": 0.6076, "AVG": 0.7245,
    },
    "MPNN": {"MUTAG": 0.7450, "NCI1": 0.8012, "PROTEINS": 0.7350, "PTC_FM": 0.5786, "AVG": 0.7149},
    "pLSTM": {"MUTAG": 0.8512, "NCI1": 0.7324, "PROTEINS": 0.7502, "PTC_FM": 0.6133, "AVG": 0.7368},
}  # fmt: skip

# arXiv 2506.11997, without positional encodings: average precision and mean absolute error.
PEPTIDES = {
    "peptides-func": {
        "GAT": 0.525, "GCN": 0.534, "GIN": 0.593, "LSTM-GNN": 0.502, "MPNN": 0.557, "pLSTM": 0.536,
    },
    "peptides-struct": {
        "GAT": 0.270, "GCN": 0.264, "GIN": 0.328, "LSTM-GNN": 0.274, "MPNN": 0.260, "pLSTM": 0.264,
    },
}  # fmt: skip

# The leaderboard of the Open Graph Benchmark: test ROC-AUC.
OGB = {"ogbg-molhiv": {"GIN + virtual node": 0.7707}}

# arXiv 2506.11997, arrow pointing: test and ext accuracy, 5 seeds at 192 pixels, 100,000 images,
# 50 epochs.
ARROW_POINTING = {
    "P+D": (0.972, 0.778),
    "P": (0.978, 0.746),
    "D": (0.957, 0.828),
    "no position": (0.975, 0.769),
    "gate biases only": (0.975, 0.784),
    "ViT": (0.915, 0.707),
}
