import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit, softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, mean_absolute_error, mean_squared_error, roc_auc_score

from modelkeep.evaluation import metrics
from modelkeep.evaluation.metrics import ScoresError


def binary(n=400, seed=0, digits=2):
    """Outcomes and rounded (so tied) probabilities that are right on average."""
    draw = np.random.default_rng(seed)
    p = np.clip(draw.beta(2, 4, n).round(digits), 0.01, 0.99)
    return (draw.random(n) < p).astype(int), np.column_stack([1 - p, p])


def three(n=600, seed=0):
    draw = np.random.default_rng(seed)
    p = softmax(draw.normal(0, 1, (n, 3)), axis=1)
    return (draw.random((n, 1)) > p.cumsum(axis=1)).sum(axis=1), p


def days(n, count, seed=0):
    return np.random.default_rng(seed).integers(0, count, n)


def test_two_classes_as_scikit_learn_has_them():
    y, p = binary()
    found = metrics.summary("binary", y, p, days(len(y), 20))
    assert found["log_loss"].value == pytest.approx(log_loss(y, p))
    assert found["auc"].value == pytest.approx(roc_auc_score(y, p[:, 1]))
    assert metrics.auc(y, p) == pytest.approx(roc_auc_score(y, p[:, 1]))


def test_three_classes_as_scikit_learn_has_them():
    y, p = three()
    found = metrics.summary("multiclass", y, p, days(len(y), 20))
    assert found["log_loss"].value == pytest.approx(log_loss(y, p))
    assert found["auc"].value == pytest.approx(roc_auc_score(y, p, multi_class="ovr"))


def test_numbers_as_scikit_learn_has_them():
    draw = np.random.default_rng(0)
    y, p = draw.normal(size=(2, 100))
    found = metrics.summary("regression", y, p, days(100, 10))
    assert found["squared_error"].value == pytest.approx(mean_squared_error(y, p))
    assert found["absolute_error"].value == pytest.approx(mean_absolute_error(y, p))


def test_every_task_has_its_metrics_and_names():
    y, p = binary()
    assert tuple(metrics.per_row("binary", y, p)) == metrics.METRICS["binary"]
    assert {m for names in metrics.METRICS.values() for m in names} == set(metrics.NAMES) - {"cost"}


def test_a_certain_error_is_finite():
    assert np.isfinite(metrics.log_loss(np.array([1]), np.array([[1.0, 0.0]]))).all()


def test_the_influence_has_delongs_variance():
    y, p = binary()
    pos, neg = p[y == 1, 1], p[y == 0, 1]
    won = (pos[:, None] > neg) + 0.5 * (pos[:, None] == neg)  # each pair by itself
    delong = won.mean(1).var(ddof=1) / len(pos) + won.mean(0).var(ddof=1) / len(neg)
    found = metrics.clustered(metrics.auc_influence(y, p), np.arange(len(y)))
    assert found.value == pytest.approx(won.mean())
    assert found.se**2 == pytest.approx(delong, rel=0.02)  # n/(n-1) in other places
    assert found.design_effect == pytest.approx(1)


def test_the_standard_error_is_the_cluster_robust_one():
    """Of a regression on the intercept alone: (X'X)^-1 sum X'uu'X (X'X)^-1, times D/(D-1)."""
    x, block = np.random.default_rng(0).normal(size=300), days(300, 25)
    design, meat = np.ones((300, 1)), np.zeros((1, 1))
    bread = np.linalg.inv(design.T @ design)
    beta = bread @ design.T @ x
    for g in np.unique(block):
        score = design[block == g].T @ (x - design @ beta)[block == g]
        meat += np.outer(score, score)
    variance = (bread @ meat @ bread)[0, 0] * 25 / 24
    found = metrics.clustered(x, block)
    assert (found.rows, found.blocks) == (300, 25)
    assert found.se == pytest.approx(np.sqrt(variance))
    assert found.high - found.value == pytest.approx(2.0639 * found.se, rel=1e-4)  # t, 24 degrees
    assert found.value - found.low == pytest.approx(found.high - found.value)


def test_the_standard_error_agrees_with_a_bootstrap_of_blocks():
    draw = np.random.default_rng(1)
    block = np.repeat(np.arange(60), draw.integers(5, 40, 60))
    x = draw.normal(0, 1, 60)[block] + draw.normal(0, 1, len(block))
    total, n = np.bincount(block, x), np.bincount(block)
    taken = draw.integers(0, 60, (20_000, 60))
    means = total[taken].sum(axis=1) / n[taken].sum(axis=1)
    found = metrics.clustered(x, block)
    assert found.se == pytest.approx(means.std(), rel=0.05)
    assert found.design_effect == pytest.approx((found.se / x.std(ddof=1)) ** 2 * len(x))
    assert found.design_effect > 5


def test_blocks_may_be_dates_in_any_order():
    x, block = np.random.default_rng(0).normal(size=50), days(50, 7)
    dates, turn = np.datetime64("2020-01-01") + block, np.arange(50)[::-1]
    assert metrics.clustered(x, dates) == metrics.clustered(x, block)
    assert metrics.clustered(x[turn], dates[turn]).se == pytest.approx(
        metrics.clustered(x, block).se
    )


def test_one_block_has_no_interval():
    found = metrics.clustered(np.arange(5.0), np.zeros(5))
    assert (found.value, found.blocks) == (2, 1)
    assert np.isnan([found.se, found.low, found.high, found.design_effect]).all()


def test_equal_values_have_no_width():
    found = metrics.clustered(np.ones(4), np.arange(4))
    assert (found.se, found.low, found.high, found.design_effect) == (0, 1, 1, 1)


def test_one_class_has_no_auc():
    p = np.tile([0.4, 0.6], (6, 1))
    assert np.isnan(metrics.auc(np.ones(6, int), p))
    assert np.isnan(metrics.summary("binary", np.ones(6, int), p, np.arange(6))["auc"].low)


def test_a_class_that_never_came_true_is_left_out_of_the_auc():
    y, p = three()
    inside = y < 2
    expected = np.mean([roc_auc_score(y[inside] == k, p[inside, k]) for k in (0, 1)])
    assert metrics.auc(y[inside], p[inside]) == pytest.approx(expected)


def test_calibration_says_how_often_it_came_true():
    y, p = binary(1000, digits=6)
    rows = metrics.calibration(y, p, days(1000, 50))
    assert [r["rows"] for r in rows] == [100] * 10
    assert np.all(np.diff([r["predicted"] for r in rows]) > 0)
    top = np.argsort(p[:, 1])[-100:]
    assert rows[-1]["observed"] == pytest.approx(y[top].mean())
    assert rows[-1]["predicted"] == pytest.approx(p[top, 1].mean())
    assert all(r["low"] <= r["observed"] <= r["high"] for r in rows)
    assert len(metrics.calibration(y[:4], p[:4], np.arange(4))) == 4


@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_the_estimate_is_right_when_probabilities_are(task):
    """Labels drawn from the probabilities, again and again: the mean is what was expected."""
    _, p = (binary if task == "binary" else three)(500)
    draw, rounds = np.random.default_rng(0), 300
    real = {"log_loss": [], "auc": []}
    for _ in range(rounds):
        y = (draw.random((500, 1)) > p.cumsum(axis=1)).sum(axis=1)
        for name, values in metrics.per_row(task, y, p).items():
            real[name].append(values.mean())
    for name, value in metrics.expected(task, p).items():
        error = np.std(real[name]) / np.sqrt(rounds)
        assert abs(np.mean(real[name]) - value) < 4.5 * error, name


def test_the_estimate_of_pairs_is_exact():
    """Against the sum over all pairs of rows."""
    p, q = np.random.default_rng(0).random((2, 40)).round(1)
    order = (p[:, None] > p) + 0.5 * (p[:, None] == p)
    chance = q[:, None] * (1 - q) * (1 - np.eye(40))
    both = [np.column_stack([1 - x, x]) for x in (p, q)]
    found = metrics.expected("binary", *both)
    assert found["auc"] == pytest.approx((order * chance).sum() / chance.sum())
    loss = -(q * np.log(p.clip(1e-15)) + (1 - q) * np.log((1 - p).clip(1e-15)))
    assert found["log_loss"] == pytest.approx(loss.mean())


def test_a_class_that_nobody_believes_in_has_no_expected_auc():
    _, p = binary(50)
    wide = np.column_stack([p, np.zeros(50)])
    assert metrics.expected("multiclass", wide)["auc"] == pytest.approx(
        metrics.expected("binary", p)["auc"]
    )
    certain = np.tile([1.0, 0.0], (5, 1))
    assert np.isnan(metrics.expected("binary", certain)["auc"])


def test_recalibration_without_a_prior_is_logistic_regression():
    y, p = binary(5000, digits=6)
    logit = np.log(p[:, 1] / p[:, 0])[:, None]
    bent = expit(0.7 + 0.5 * logit)
    past = np.column_stack([1 - bent, bent])
    found = metrics.recalibrated(past, y, past, prior=0)
    wanted = LogisticRegression(C=np.inf, tol=1e-10).fit(np.log(bent / (1 - bent)), y)
    said = wanted.predict_proba(np.log(bent / (1 - bent)))
    assert np.allclose(found, said, atol=1e-3)  # the intercept is held to 0 by one row's worth
    assert np.allclose(found[:, 1], p[:, 1], atol=0.06)


def test_recalibration_minimises_what_it_says():
    y, p = binary(300)
    x, prior = np.log(p[:, 1] / p[:, 0]), 50.0

    def loss(beta):
        z = beta[0] + beta[1] * x
        held = beta[0] ** 2 / 2 + prior * (beta[1] - 1) ** 2 / 2
        return np.sum(np.logaddexp(0, z) - y * z) + held

    a, b = minimize(loss, [0, 1], tol=1e-12).x
    found = metrics.recalibrated(p, y, p, prior)
    assert np.allclose(found[:, 1], expit(a + b * x), atol=1e-6)


def test_recalibration_follows_a_base_rate_in_each_class():
    y, p = three(3000)
    often = np.where(np.arange(3000) % 2, y, 2)  # the last class is now in most rows
    found = metrics.recalibrated(p, often, p)
    assert np.allclose(found.sum(axis=1), 1)
    assert np.allclose(found.mean(axis=0), np.bincount(often) / 3000, atol=0.02)


@pytest.mark.parametrize("only", [0, 1])
@pytest.mark.parametrize("sure", [False, True])
def test_recalibration_on_one_class_stays_finite(only, sure):
    _, p = binary(200)
    p = np.round(p) if sure else p
    found = metrics.recalibrated(p, np.full(200, only), p)
    assert np.isfinite(found).all() and np.allclose(found.sum(axis=1), 1)
    assert found[:, only].mean() > 0.9


def test_errors_expected_of_numbers_go_with_the_size_of_the_prediction():
    draw = np.random.default_rng(0)
    past = draw.uniform(0, 10, 20_000)
    came = past + draw.normal(0, 1 + (past > 5), 20_000)
    small = metrics.expected_errors(np.full(50, 2.0), came, past)
    large = metrics.expected_errors(np.full(50, 8.0), came, past)
    assert small["squared_error"] == pytest.approx(1, rel=0.1)
    assert large["squared_error"] == pytest.approx(4, rel=0.1)
    assert large["absolute_error"] == pytest.approx(2 * np.sqrt(2 / np.pi), rel=0.1)


def test_errors_expected_of_numbers_that_are_all_the_same():
    found = metrics.expected_errors(np.array([1.0, 5.0]), np.array([1.0, 3.0]), np.ones(2))
    assert found == {"squared_error": 2, "absolute_error": 1}


@pytest.mark.parametrize(
    "call",
    [
        lambda: metrics.clustered(np.zeros(0), np.zeros(0)),
        lambda: metrics.calibration(np.zeros(0, int), np.zeros((0, 2)), np.zeros(0)),
        lambda: metrics.expected("binary", np.zeros((0, 2))),
        lambda: metrics.expected_errors(np.zeros(0), np.ones(3), np.ones(3)),
        lambda: metrics.expected_errors(np.ones(3), np.zeros(0), np.zeros(0)),
    ],
)
def test_no_rows_are_an_error(call):
    with pytest.raises(ScoresError, match="no rows"):
        call()


def test_no_interval_leaves_the_range_of_its_metric():
    y, blocks = np.array([0, 1] * 4), np.arange(8)
    sure = np.where(y == 1, 0.99, 0.01)
    sure[0] = 0.6
    found = metrics.summary("binary", y, np.column_stack([1 - sure, sure]), blocks)
    assert found["auc"].high <= 1 and found["log_loss"].low >= 0
    assert found["log_loss"].value - 2 * found["log_loss"].se < 0  # it would have been
