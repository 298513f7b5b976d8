"""Models of scikit-learn, by family, each with how it is trained on data that ships with scikit-learn."""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn import (
    calibration,
    cluster,
    compose,
    datasets,
    decomposition,
    discriminant_analysis,
    ensemble,
    feature_selection,
    gaussian_process,
    impute,
    linear_model,
    mixture,
    model_selection,
    multiclass,
    naive_bayes,
    neighbors,
    neural_network,
    pipeline,
    preprocessing,
    svm,
    tree,
)

from converters.runner import quiet

Rows = NDArray[np.float64]
TREES = 20
"""Trees of an ensemble: enough for every kind of node, few enough for a test."""


_WRAPPERS = ("CalibratedClassifierCV", "OneVsRestClassifier", "OneVsOneClassifier", "GridSearchCV")


@dataclass(frozen=True, slots=True)
class Entry:
    """A model of a family, not yet trained; `make` returns it fitted, and the rows that it is proved on."""

    family: str
    name: str
    make: Callable[[], tuple[Any, Any]]

    @property
    def id(self) -> str:
        """A name for tests."""
        return f"{self.family}/{self.name}".replace(" ", "-")


def entries() -> Iterator[Entry]:
    """Yield every model of scikit-learn that is tried."""
    for data, models in (("iris", _classifiers()), ("diabetes", _regressors()), ("iris", _unsupervised())):
        for family, found in models.items():
            for model in found:
                yield Entry(family, _name(model), functools.partial(_fit, model, data))
    for name, model in _pipelines().items():
        yield Entry("pipelines", name, functools.partial(_fit, model, "diabetes" if "Ridge" in name else "cancer"))
    yield Entry("pipelines", "ColumnTransformer of words and numbers", people)


@functools.cache
def data_of(name: str) -> tuple[Rows, NDArray[Any]]:
    """Return rows and answers of a data set: iris (3 classes), cancer (2 classes) or diabetes (a number)."""
    load = {"iris": datasets.load_iris, "cancer": datasets.load_breast_cancer, "diabetes": datasets.load_diabetes}
    rows, answers = load[name](return_X_y=True)
    return rows, answers


def people() -> tuple[Any, Any]:
    """Return a pipeline over named columns of numbers and words, and its data frame."""
    import pandas as pd  # noqa: PLC0415 - behind its extra

    rows, answers = data_of("iris")
    words = np.array(["short", "middle", "long"], object)[np.digitize(rows[:, 0], [5.5, 6.5])]
    frame = pd.DataFrame(
        {"width": rows[:, 1], "petal": rows[:, 2], "size": words, "many": (rows[:, 3] > 1).astype(int)}
    )
    columns = compose.make_column_transformer(
        (preprocessing.StandardScaler(), ["width", "petal"]),
        (preprocessing.OneHotEncoder(handle_unknown="ignore"), ["size", "many"]),
    )
    model = pipeline.make_pipeline(columns, ensemble.RandomForestClassifier(TREES, random_state=0))
    return model.fit(frame, np.array(["setosa", "versicolor", "virginica"])[answers]), frame


def _fit(model: Any, data: str) -> tuple[Any, Rows]:
    rows, answers = data_of(data)
    with quiet():
        return model.fit(rows, answers), rows


def _name(model: Any) -> str:
    name = type(model).__name__
    return f"{name}({type(model.estimator).__name__})" if name in _WRAPPERS else name


def _classifiers() -> dict[str, list[Any]]:
    logistic = linear_model.LogisticRegression(max_iter=5000)
    members = [("linear", logistic), ("tree", tree.DecisionTreeClassifier(max_depth=3, random_state=0))]
    return {
        "linear classifiers": [
            logistic,
            linear_model.RidgeClassifier(), linear_model.RidgeClassifierCV(),
            linear_model.SGDClassifier(loss="log_loss", random_state=0), linear_model.Perceptron(random_state=0),
            svm.LinearSVC(), discriminant_analysis.LinearDiscriminantAnalysis(),
            discriminant_analysis.QuadraticDiscriminantAnalysis(),
        ],
        "trees": [tree.DecisionTreeClassifier(random_state=0), tree.ExtraTreeClassifier(random_state=0)],
        "forests": [
            ensemble.RandomForestClassifier(TREES, random_state=0),
            ensemble.ExtraTreesClassifier(TREES, random_state=0),
            ensemble.BaggingClassifier(random_state=0),
        ],
        "boosting": [
            ensemble.GradientBoostingClassifier(n_estimators=TREES, random_state=0),
            ensemble.HistGradientBoostingClassifier(max_iter=TREES, random_state=0),
            ensemble.AdaBoostClassifier(n_estimators=TREES, random_state=0),
        ],
        "support vectors": [svm.SVC(), svm.NuSVC()],
        "neighbours": [neighbors.KNeighborsClassifier()],
        "naive Bayes": [
            naive_bayes.GaussianNB(), naive_bayes.BernoulliNB(binarize=3.0), naive_bayes.MultinomialNB(),
            naive_bayes.ComplementNB(),
        ],
        "neural networks": [neural_network.MLPClassifier(hidden_layer_sizes=(16,), max_iter=300, random_state=0)],
        "Gaussian processes": [],
        "meta-estimators": [
            ensemble.VotingClassifier(members, voting="soft"),
            ensemble.StackingClassifier(members),
            calibration.CalibratedClassifierCV(logistic), multiclass.OneVsRestClassifier(logistic),
            multiclass.OneVsOneClassifier(logistic),
            model_selection.GridSearchCV(logistic, {"C": [0.1, 1.0]}),
        ],
    }  # fmt: skip


def _regressors() -> dict[str, list[Any]]:
    ridge = linear_model.Ridge()
    members = [("linear", ridge), ("tree", tree.DecisionTreeRegressor(max_depth=3, random_state=0))]
    return {
        "linear regressors": [
            linear_model.LinearRegression(), ridge, linear_model.RidgeCV(), linear_model.Lasso(),
            linear_model.ElasticNet(), linear_model.BayesianRidge(), linear_model.ARDRegression(), linear_model.Lars(),
            linear_model.OrthogonalMatchingPursuit(), linear_model.HuberRegressor(max_iter=1000),
            linear_model.PoissonRegressor(), linear_model.GammaRegressor(), linear_model.TweedieRegressor(),
            linear_model.SGDRegressor(random_state=0), linear_model.QuantileRegressor(),
            linear_model.TheilSenRegressor(random_state=0), linear_model.RANSACRegressor(random_state=0),
            svm.LinearSVR(random_state=0),
        ],
        "trees": [tree.DecisionTreeRegressor(random_state=0), tree.ExtraTreeRegressor(random_state=0)],
        "forests": [
            ensemble.RandomForestRegressor(TREES, random_state=0), ensemble.ExtraTreesRegressor(TREES, random_state=0),
            ensemble.BaggingRegressor(random_state=0),
        ],
        "boosting": [
            ensemble.GradientBoostingRegressor(n_estimators=TREES, random_state=0),
            ensemble.HistGradientBoostingRegressor(max_iter=TREES, random_state=0),
            ensemble.AdaBoostRegressor(n_estimators=TREES, random_state=0),
        ],
        "support vectors": [svm.SVR(), svm.NuSVR()],
        "neighbours": [neighbors.KNeighborsRegressor()],
        "neural networks": [neural_network.MLPRegressor(hidden_layer_sizes=(16,), max_iter=300, random_state=0)],
        "Gaussian processes": [gaussian_process.GaussianProcessRegressor(gaussian_process.kernels.RBF(), alpha=1.0)],
        "meta-estimators": [ensemble.VotingRegressor(members), ensemble.StackingRegressor(members)],
    }  # fmt: skip


def _unsupervised() -> dict[str, list[Any]]:
    return {
        "clusters, mixtures, outliers": [
            cluster.KMeans(3, n_init=1, random_state=0), cluster.MiniBatchKMeans(3, n_init=1, random_state=0),
            mixture.GaussianMixture(3, random_state=0), mixture.BayesianGaussianMixture(n_components=3, random_state=0),
            ensemble.IsolationForest(n_estimators=TREES, random_state=0), svm.OneClassSVM(),
            neighbors.LocalOutlierFactor(novelty=True),
        ],
        "transformers": [
            preprocessing.StandardScaler(), preprocessing.MinMaxScaler(), preprocessing.MaxAbsScaler(),
            preprocessing.RobustScaler(), preprocessing.Normalizer(), preprocessing.Binarizer(threshold=3.0),
            preprocessing.PolynomialFeatures(), preprocessing.PowerTransformer(),
            preprocessing.QuantileTransformer(n_quantiles=20),
            preprocessing.KBinsDiscretizer(encode="ordinal", strategy="uniform"),
            decomposition.PCA(2), decomposition.IncrementalPCA(2), decomposition.TruncatedSVD(2),
            decomposition.KernelPCA(2), impute.SimpleImputer(), impute.KNNImputer(),
            feature_selection.SelectKBest(k=2), feature_selection.VarianceThreshold(),
        ],
    }  # fmt: skip


def _pipelines() -> dict[str, Any]:
    forest = ensemble.RandomForestClassifier(TREES, random_state=0)
    return {
        "StandardScaler + LogisticRegression": pipeline.make_pipeline(
            preprocessing.StandardScaler(), linear_model.LogisticRegression()
        ),
        "SimpleImputer + StandardScaler + RandomForest": pipeline.make_pipeline(
            impute.SimpleImputer(), preprocessing.StandardScaler(), forest
        ),
        "PCA + SVC": pipeline.make_pipeline(preprocessing.StandardScaler(), decomposition.PCA(8), svm.SVC()),
        "PolynomialFeatures + Ridge": pipeline.make_pipeline(
            preprocessing.PolynomialFeatures(2), linear_model.Ridge()
        ),
        "FeatureUnion + LogisticRegression": pipeline.make_pipeline(
            pipeline.make_union(preprocessing.StandardScaler(), decomposition.PCA(3)),
            preprocessing.StandardScaler(), linear_model.LogisticRegression(),
        ),
    }  # fmt: skip
