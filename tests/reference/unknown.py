"""How familiar a picture looks, and rows judged as if they had not been learned from (docs/method.md, 4.5)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .lda import Floats, Sums

OWN = 0.1  # beta
ORIGIN = 1 / 3  # of a class, at the origin
LEAST = 0.001  # of what a row leaves when it is taken out


@dataclass(frozen=True)
class LeaveOneOut:
    """What is needed to judge a row that the sums hold as if they did not hold it.

    `shrinkage` and `pseudo_pictures` are nu and kappa, in rows; `variance` is sigma^2.
    """

    known: Sums
    shrinkage: float
    pseudo_pictures: float
    variance: float

    @property
    def rows(self) -> float:
        """N."""
        return float(self.known.count.sum())

    @property
    def classes(self) -> int:
        """K."""
        return len(self.known.count)

    @property
    def mean(self) -> Floats:
        """m."""
        mean: Floats = self.known.sums.sum(0) / self.rows
        return mean

    def scatter(self) -> Floats:
        """A (4.2)."""
        width = len(self.known.moment)
        within = self.known.scatter()
        trace = float(np.trace(within))
        v = trace / self.rows / width if trace > 0 else self.variance
        return (within + self.shrinkage * v * np.eye(width)) / (self.rows + self.shrinkage)

    def distances(self, row: NDArray[np.int8], c: int) -> Floats:
        """M_k of a row of class c, for each class k."""
        count = self.known.count.astype(np.float64)
        delta = self.known.sums / count[:, None] - self.mean
        inverse = np.linalg.inv(self.scatter())
        x = row - self.mean
        n, kappa, total = count[c], self.pseudo_pictures, self.rows + self.shrinkage
        u, g, q = delta @ inverse @ x, delta @ inverse @ delta.T, float(x @ inverse @ x)
        epsilon = q - 2 * u[c] + g[c, c]
        t = n / ((n - 1) * total)
        found = np.zeros(self.classes)
        for k in range(self.classes):
            share = count[k] / (count[k] + kappa)
            alpha, gamma = 1 + (1 - share) / (self.rows - 1), share
            if k == c:
                alpha = 1 + (1 - (n - 1) / (n - 1 + kappa)) / (self.rows - 1) + 1 / (n - 1 + kappa)
                gamma = n / (n - 1 + kappa)
            yy = alpha**2 * q - 2 * alpha * gamma * u[k] + gamma**2 * g[k, k]
            ye = alpha * (q - u[c]) - gamma * (u[k] - g[k, c])
            found[k] = (total - 1) / total * (yy + t * ye**2 / max(1 - t * epsilon, LEAST))
        return found

    def origin(self) -> Floats:
        """o."""
        origin: Floats = (self.known.sums / self.known.count[:, None]).sum(0) / (self.classes + ORIGIN)
        return origin

    def background(self) -> Floats:
        """B."""
        width = len(self.known.moment)
        total, tau = self.rows + self.shrinkage, width / (4 * self.classes)
        return (total * self.scatter() + tau * self.variance * np.eye(width)) / (total + tau)

    def left_out(self, row: NDArray[np.int8], c: int) -> float:
        """f of a row of class c that has two rows or more, without the row."""
        inverse, n = np.linalg.inv(self.background()), float(self.known.count[c])
        z, e = row - self.origin(), row - self.known.sums[c] / n
        zz, ze, ee = float(z @ inverse @ z), float(z @ inverse @ e), float(e @ inverse @ e)
        g = 1 / ((n - 1) * (self.classes + ORIGIN))
        zz, ze = zz + 2 * g * ze + g**2 * ee, ze + g * ee
        total = self.rows + self.shrinkage + len(self.known.moment) / (4 * self.classes)
        t = n / ((n - 1) * total)
        b = (total - 1) / total * (zz + t * ze**2 / max(1 - t * ee, LEAST))
        return float((1 - OWN) * b - self.distances(row, c).min())

    def familiarity(self, rows: NDArray[np.int8]) -> Floats:
        """f (N,) of new rows."""
        count = self.known.count.astype(np.float64)[:, None]
        d = (self.known.sums - count * self.mean) / (count + self.pseudo_pictures)
        inverse, far = np.linalg.inv(self.scatter()), np.linalg.inv(self.background())
        x, z = rows - self.mean, rows - self.origin()
        near = 2 * (x @ inverse @ d.T - ((d @ inverse) * d).sum(1) / 2).max(1)
        result: Floats = near - ((x @ inverse) * x).sum(1) + (1 - OWN) * ((z @ far) * z).sum(1)
        return result

    def threshold(self, rows: NDArray[np.int8], labels: NDArray[np.int64], share: float) -> float:
        """What a share of new rows of known classes fall short of; rows: the remembered ones."""
        held = [i for i in range(len(rows)) if self.known.count[labels[i]] > 1]
        weight = {c: 1 / sum(labels[i] == c for i in held) for c in {int(labels[i]) for i in held}}
        judged = sorted((self.left_out(rows[i], int(labels[i])), i) for i in held)
        r, places, below = len(judged), [], 0.0
        for _, i in judged:
            p = weight[int(labels[i])] / len(weight)
            places.append((below + p / 2) * r / (r + 1) + 1 / (2 * (r + 1)))
            below += p
        f = [value for value, _ in judged]
        if r == 1 or share >= places[-1]:
            return f[-1]
        after = next(i for i in range(1, r) if places[i] >= share)
        slope = (f[after] - f[after - 1]) / (places[after] - places[after - 1])
        return float(f[after - 1] + (share - places[after - 1]) * slope)
