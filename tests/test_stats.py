"Statistics against numbers that others have printed."
import numpy as np
import pytest
from scipy import stats as sps

from synkmimic.stats import delong, hanley_mcneil_se, tost


def test_area_under_a_published_roc_curve():
    "Hanley and McNeil (Radiology 1982): 109 CT images rated 1 to 5; area 0.893, standard error 0.032."
    abnormal, normal = np.repeat([1, 2, 3, 4, 5], [3, 2, 2, 11, 33]), np.repeat([1, 2, 3, 4, 5], [33, 6, 6, 11, 2])
    e = delong(np.r_[np.ones(51), np.zeros(58)], np.r_[abnormal, normal])
    assert round(e.value, 3) == 0.893
    assert (e.high - e.low)/2/1.96 == pytest.approx(0.032, abs=0.0015) and hanley_mcneil_se(0.893, 51, 58) == pytest.approx(0.032, abs=0.001)

def test_a_published_equivalence_test():
    "Lakens (2017), the replication of Eskine: 5.25 (0.95, n 95) against 5.22 (0.83, n 89), margin 0.43 SD: t(182) = -2.69, p = .004."
    se, sd = np.sqrt(0.95**2/95 + 0.83**2/89), np.sqrt((0.95**2 + 0.83**2)/2)
    p = tost(5.25 - 5.22, se, 0.43*sd)
    assert sps.norm.isf(p) == pytest.approx(2.69, abs=0.015) and round(p, 3) == 0.004
