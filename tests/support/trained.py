"""Small trained models and samples, made anew in each test process and always the same."""

import functools

import numpy as np
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


@functools.cache
def cancer():
    return load_breast_cancer(return_X_y=True)


@functools.cache
def diabetes():
    return load_diabetes(return_X_y=True)


@functools.cache
def iris():
    return load_iris(return_X_y=True)


@functools.cache
def forest():
    """A forest of 5 trees on iris, and its rows."""
    rows, labels = iris()
    return RandomForestClassifier(5, random_state=0).fit(rows, labels), rows


@functools.cache
def linear():
    rows, values = diabetes()
    return LinearRegression().fit(rows, values), rows


@functools.cache
def logistic():
    rows, labels = cancer()
    return make_pipeline(StandardScaler(), LogisticRegression()).fit(rows, labels), rows


@functools.cache
def people():
    """A table with numbers, whole numbers and words, and whether each person buys: (DataFrame, labels)."""
    import pandas as pd

    generator = np.random.default_rng(0)
    count = 300
    frame = pd.DataFrame(
        {
            "age": generator.integers(18, 90, count).astype(np.float64),
            "income": generator.lognormal(10, 0.5, count),
            "city": generator.choice(["Bonn", "Oslo", "Rome"], count).astype(object),
            "children": generator.integers(0, 4, count),
        }
    )
    buys = (frame["income"] > 22_000) ^ (frame["city"] == "Oslo") ^ (frame["children"] > 2)
    return frame, np.where(buys, "buys", "leaves")
