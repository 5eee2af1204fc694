"""What is measured: sizes, rules, floors and peers, by the labels of the report."""

from __future__ import annotations

from benchmarks.measurements import MILLION, PEERS, Job, Size, aggregation, floor

MAIN = Size(50, 10 * MILLION)
RATES = (Size(10, 25 * MILLION), MAIN, Size(200, MILLION))
MANY_CLIENTS = tuple(Size(n, 10 * MILLION) for n in (10, 50, 200))
LARGE_MODELS = tuple(Size(10, p * MILLION) for p in (1, 10, 100))
SMALL = Size(50, MILLION)
S3_SIZE = Size(20, 5 * MILLION)
S3_READERS = (1, 16)
TEN_GIGABYTES = Size(3, 2500 * MILLION, 1)

READ = "reading, 1 thread"
READ_TWICE = "reading, 2 threads"
MEAN_FLOOR = "blocked numpy float64, 2 threads"
GRAM_FLOOR = "blocked numpy float32 inner products, 2 threads"
MEDIAN_FLOOR = "blocked numpy median, 2 threads"
MEASURING = "the measuring pass of multi_krum"
MIXED = "nnm(f=5) + multi_krum"
OPTIMIZED = "weighted_mean and fedadam"
NVFLARE = "NVFlare, in time"
FLOWER = "Flower, FedAvg"

#: Every rule, with arguments that are valid for ten updates.
RULES = {
    "weighted_mean": aggregation("weighted_mean"),
    "unweighted_mean": aggregation("unweighted_mean"),
    "norm_clipped_mean": aggregation("norm_clipped_mean", max_norm=1.0),
    "norm_filtered_mean": aggregation("norm_filtered_mean"),
    "centered_clipping": aggregation("centered_clipping", tau=1.0, iterations=3),
    "geometric_median": aggregation("geometric_median"),
    "krum": aggregation("krum", f=1),
    "multi_krum": aggregation("multi_krum", f=1, m=5),
    "coordinate_median": aggregation("coordinate_median"),
    "trimmed_mean": aggregation("trimmed_mean", beta=0.2),
    "bulyan": aggregation("bulyan", f=1),
}

MEANS = {
    READ: floor("read"),
    READ_TWICE: floor("read", threads=2),
    "blocked numpy float32, 1 thread": floor("blocked_mean", dtype="float32"),
    "blocked numpy float32, 2 threads": floor("blocked_mean", dtype="float32", threads=2),
    "blocked numpy float64, 1 thread": floor("blocked_mean", dtype="float64"),
    MEAN_FLOOR: floor("blocked_mean", dtype="float64", threads=2),
    "weighted_mean": RULES["weighted_mean"],
    OPTIMIZED: aggregation("weighted_mean", "optimize"),
}
PEER_MEANS = {NVFLARE: Job("nvflare_mean", PEERS), FLOWER: Job("flower_mean", PEERS)}

DISTANCES = {
    GRAM_FLOOR: floor("blocked_gram", threads=2),
    MEASURING: aggregation("multi_krum", "products", f=5),
    "krum": aggregation("krum", f=5),
    "multi_krum": aggregation("multi_krum", f=5),
    MIXED: aggregation(MIXED, f=5),
    "bulyan": aggregation("bulyan", f=5),
}
ORDERS = {
    MEDIAN_FLOOR: floor("blocked_median", threads=2),
    "coordinate_median": RULES["coordinate_median"],
    "trimmed_mean": RULES["trimmed_mean"],
}
PEER_ORDERS = {
    "np.median(np.stack)": floor("numpy_median"),
    "Flower, FedMedian": Job("flower_median", PEERS),
    "Flower, FedTrimmedAvg": Job("flower_trimmed_mean", PEERS),
}
