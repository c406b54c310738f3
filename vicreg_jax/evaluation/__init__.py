"""Evaluation of frozen features, and collapse diagnostics. See docs/guides/evaluation.md."""

from vicreg_jax.evaluation.class_balance import balanced_accuracy, majority_accuracy
from vicreg_jax.evaluation.diagnostics import collapse_warning, effective_rank, embedding_std, spectrum
from vicreg_jax.evaluation.feature_bank import FeatureBank, extract_bank
from vicreg_jax.evaluation.features import LabeledFeatures, extract_features, raw_pixel_features
from vicreg_jax.evaluation.few_label import draw_labeled_examples, few_label_accuracies
from vicreg_jax.evaluation.knn import knn_accuracy, knn_predict, nearest_neighbors
from vicreg_jax.evaluation.label_free import alpha_req, lidar, rank_me
from vicreg_jax.evaluation.linear_probe import fit_linear_probe, linear_accuracy
from vicreg_jax.evaluation.logistic_regression import fit_logistic_regression
from vicreg_jax.evaluation.multi_label import evaluate_multi_label
from vicreg_jax.evaluation.protocol import EvaluationSettings, evaluate_features
from vicreg_jax.evaluation.top_k import label_ranks, top_k_accuracies

__all__ = [
    "EvaluationSettings",
    "FeatureBank",
    "LabeledFeatures",
    "alpha_req",
    "balanced_accuracy",
    "collapse_warning",
    "draw_labeled_examples",
    "effective_rank",
    "embedding_std",
    "evaluate_features",
    "evaluate_multi_label",
    "extract_bank",
    "extract_features",
    "few_label_accuracies",
    "fit_linear_probe",
    "fit_logistic_regression",
    "knn_accuracy",
    "knn_predict",
    "label_ranks",
    "lidar",
    "linear_accuracy",
    "majority_accuracy",
    "nearest_neighbors",
    "rank_me",
    "raw_pixel_features",
    "spectrum",
    "top_k_accuracies",
]
