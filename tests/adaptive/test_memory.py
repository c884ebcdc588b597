"""The memory of covariances: disjoint regions, one Σ a region, on disk and among several writers."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.torch import save_file
from scipy.optimize import minimize
from torch import Tensor

from certify import GaussianNoise
from certify.adaptive import AdaptiveMedianSmoother, CovarianceMemory
from certify.adaptive.memory import disjoint
from certify.models import PromptEncoder
from tests.adaptive.conftest import CIRCLE, FISH

CONTEXT = {"length": 4, "text_encoder": "abc"}


def point(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def gap(v: Tensor, a: Tensor, b: Tensor) -> float:
    """min over x of max(‖x‖_a, ‖x − v‖_b), by a solver: above 1 the ellipsoids are disjoint, below they overlap."""
    free = (a > 0) & (b > 0)
    # Where one has no extent, x is given there; where neither has, they are apart unless v is 0.
    if bool(((a == 0) & (b == 0) & (v != 0)).any()):
        return math.inf
    fixed_a = float((v[(a > 0) & (b == 0)] / a[(a > 0) & (b == 0)]).square().sum())
    fixed_b = float((v[(a == 0) & (b > 0)] / b[(a == 0) & (b > 0)]).square().sum())
    v, a, b = (x[free].numpy() for x in (v, a, b))

    def two(x: Any) -> tuple[float, float]:
        return fixed_a + (((x[:-1]) / a) ** 2).sum(), fixed_b + (((x[:-1] - v) / b) ** 2).sum()

    constraints = [{"type": "ineq", "fun": lambda x, i=i: x[-1] - two(x)[i]} for i in (0, 1)]
    best = math.inf
    for share in (0.2, 0.5, 0.8):
        x = [*(share * v), 0.0]
        x[-1] = max(two(x))
        found = minimize(lambda x: x[-1], x, constraints=constraints, method="SLSQP", options={"maxiter": 500})
        best = min(best, max(two(found.x)))
    return math.sqrt(best)


axes = st.lists(st.sampled_from([0.0, 0.05, 0.3, 1.0, 4.0]), min_size=3, max_size=3)


def _undigested(index: Path) -> dict[str, Any]:
    """An index as earlier versions wrote it, to be changed by hand."""
    content: dict[str, Any] = json.loads(index.read_text())
    content.pop("sha256", None)
    return content


class TestDisjoint:
    """The one-dimensional criterion."""

    @given(axes, axes, st.lists(st.floats(-4, 4), min_size=3, max_size=3))
    @example([0.0, 1.0, 1.0], [0.0, 1.0, 1.0], [0.1, 0.0, 0.0])  # parallel discs
    @example([0.0, 1.0, 1.0], [1.0, 0.0, 1.0], [0.5, 0.5, 0.0])  # crossing discs
    @example([1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [1.0, 0.0, 0.0])
    def test_it_agrees_with_a_solver(self, a: list[float], b: list[float], v: list[float]) -> None:
        offset = torch.tensor([x if abs(x) > 1e-6 else 0.0 for x in v], dtype=torch.float64)
        first, second = point(*a), point(*b)
        expected = gap(offset, first, second)
        if abs(expected - 1) > 1e-3:
            assert disjoint(offset, first, second) == (expected > 1)

    @given(axes, axes, st.lists(st.floats(-4, 4), min_size=3, max_size=3), st.integers(0, 2**30))
    def test_certain_means_no_common_point(self, a: list[float], b: list[float], v: list[float], seed: int) -> None:
        """No point of the first, its boundary included, lies in the second."""
        first, second, offset = point(*a), point(*b), point(*v)
        if not disjoint(offset, first, second):
            return
        direction = torch.randn(200, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        radius = torch.linspace(0, 1, 20, dtype=torch.float64)[:, None, None]
        x = first * direction / direction.norm(dim=1, keepdim=True) * radius
        apart = (x - offset)[..., second == 0].ne(0).any(dim=-1)
        inside = ((x - offset)[..., second > 0] / second[second > 0]).norm(dim=-1) <= 1
        assert not bool((inside & ~apart).any())

    def test_touching_is_not_disjoint(self) -> None:
        one = torch.ones(2, dtype=torch.float64)
        assert not disjoint(point(2.0, 0.0), one, one)
        assert disjoint(point(2.0 + 1e-6, 0.0), one, one)
        assert not disjoint(point(0.0, 0.0), 0 * one, 0 * one)

    @pytest.mark.parametrize("scale", [1e-160, 1e-100, 1e100])
    def test_extreme_units_err_on_the_safe_side(self, scale: float) -> None:
        one = scale * torch.ones(2, dtype=torch.float64)
        assert not disjoint(scale * point(1.9, 0.0), one, one)
        if scale > 1e-140:
            assert disjoint(scale * point(2.1, 0.0), one, one)

    def test_a_token_is_one_axis(self) -> None:
        v = torch.randn(4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        a, b = torch.tensor([[1.0], [0.0], [2.0], [0.3]]), torch.tensor([[0.5], [1.0], [0.1], [1.0]])
        for scale in torch.linspace(0.2, 6, 40, dtype=torch.float64):
            assert disjoint(v, scale * a, b) == disjoint(v, (scale * a).expand(4, 5).clone(), b.expand(4, 5).clone())


class TestStore:
    """What may be claimed where."""

    def test_a_first_region_is_stored_as_requested(self, tmp_path: Path) -> None:
        memory = CovarianceMemory(tmp_path / "new")
        issued = memory.store(point(0.0, 0.0), GaussianNoise(0.5), 2.0, CONTEXT)
        assert (issued.status, issued.rho, issued.requested) == ("stored", 2.0, 2.0)
        region = memory.find(point(0.6, 0.8), CONTEXT)
        assert region is not None
        assert region.id == issued.region.id  # type: ignore[union-attr]
        assert memory.find(point(0.6, 0.81), CONTEXT) is None
        assert len(memory) == 1

    def test_a_claim_inside_a_region_uses_its_noise_and_is_cut_down(self, tmp_path: Path) -> None:
        memory = CovarianceMemory(tmp_path)
        noise = GaussianNoise(point(1.0, 0.5))
        first = memory.store(point(0.0, 0.0), noise, 2.0, CONTEXT)
        issued = memory.store(point(0.6, 0.4), GaussianNoise(100.0), 5.0, CONTEXT)
        assert issued.status == "inside"
        assert torch.equal(issued.noise.sigma, noise.sigma)
        assert issued.rho == pytest.approx(2.0 - math.hypot(0.6, 0.8))
        assert issued.region.id == first.region.id  # type: ignore[union-attr]
        assert len(memory) == 1
        small = memory.store(point(0.6, 0.4), noise, 0.25, CONTEXT)
        assert (small.status, small.rho) == ("inside", 0.25)
        assert memory.store(point(0.0, 0.0), noise, 9.0, CONTEXT).rho == 2.0

    def test_on_the_boundary_there_is_no_room(self, tmp_path: Path) -> None:
        memory = CovarianceMemory(tmp_path)
        memory.store(point(0.0), GaussianNoise(1.0), 2.0, CONTEXT)
        issued = memory.store(point(2.0), GaussianNoise(1.0), 1.0, CONTEXT)
        assert (issued.status, issued.rho, issued.region) == ("refused", 0.0, None)
        beside = memory.store(point(2.0 + 1e-10), GaussianNoise(1.0), 1.0, CONTEXT)
        assert beside.rho <= 1e-10
        assert len(memory) <= 2

    def test_a_region_is_shrunk_until_it_is_disjoint(self, tmp_path: Path) -> None:
        memory = CovarianceMemory(tmp_path)
        memory.store(point(0.0, 0.0), GaussianNoise(1.0), 2.0, CONTEXT)
        memory.store(point(0.0, 9.0), GaussianNoise(1.0), 1.0, CONTEXT)
        issued = memory.store(point(5.0, 0.0), GaussianNoise(2.0), 4.0, CONTEXT)
        assert issued.status == "shrunk"
        assert issued.rho == pytest.approx(1.5, rel=1e-4)
        assert issued.rho < 1.5
        memory.verify()
        assert memory.find(point(2.5, 0.0), CONTEXT).id == issued.region.id  # type: ignore[union-attr]

    def test_other_side_information_is_another_space(self, tmp_path: Path) -> None:
        memory = CovarianceMemory(tmp_path)
        memory.store(point(0.0), GaussianNoise(1.0), 2.0, CONTEXT)
        other = {**CONTEXT, "length": 5}
        assert memory.find(point(0.0), other) is None
        issued = memory.store(point(0.5), GaussianNoise(1.0), 2.0, other)
        assert (issued.status, issued.rho) == ("stored", 2.0)
        assert len(memory.regions(other)) == 1
        assert memory.find(point(0.0, 0.0), CONTEXT) is None  # another shape
        memory.verify()

    @given(seed=st.integers(0, 10_000))
    def test_whatever_is_stored_stays_disjoint(self, seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
        memory = CovarianceMemory(tmp_path_factory.mktemp("memory"))
        rng = torch.Generator().manual_seed(seed)
        sizes = torch.tensor([0.0, 0.1, 1.0, 3.0], dtype=torch.float64)
        for _ in range(6):
            y = 3 * torch.randn(3, generator=rng, dtype=torch.float64) * torch.tensor([1.0, 1.0, 0.0])
            sigma = sizes[torch.randint(4, (3,), generator=rng)]
            issued = memory.store(y, GaussianNoise(sigma), float(3 * torch.rand(1, generator=rng)) + 0.01, CONTEXT)
            assert issued.rho <= issued.requested
            if issued.rho > 0:
                # A perturbation within the claim is smoothed with the claim's Σ.
                for _ in range(5):
                    step = torch.randn(3, generator=rng, dtype=torch.float64) * issued.noise.sigma
                    size = issued.noise.norm(step)
                    delta = step * (issued.rho / size) * (1 - 1e-12) if size > 0 else step
                    found = memory.find(y + delta, CONTEXT)
                    assert found is not None
                    assert torch.equal(found.noise.sigma, issued.noise.sigma)
        memory.verify()


class TestFolder:
    """Several holders of one folder, and files that are not what was written."""

    def test_others_see_what_is_stored(self, tmp_path: Path) -> None:
        one, two = CovarianceMemory(tmp_path), CovarianceMemory(tmp_path)
        one.store(point(0.0), GaussianNoise(1.0), 1.0, CONTEXT)
        assert two.find(point(0.5), CONTEXT) is not None
        assert two.store(point(0.5), GaussianNoise(9.0), 1.0, CONTEXT).status == "inside"
        assert one.digest() == two.digest() != CovarianceMemory(tmp_path / "other").digest()
        assert "1 regions" in repr(two)

    def test_it_comes_back_as_it_was(self, tmp_path: Path) -> None:
        y, sigma = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)), torch.rand(3, 1).double()
        CovarianceMemory(tmp_path).store(y, GaussianNoise(sigma), 0.1234567891234, CONTEXT)
        (region,) = CovarianceMemory(tmp_path).regions()
        assert torch.equal(region.center, y)
        assert torch.equal(region.noise.sigma, sigma)
        assert (region.rho, region.context) == (0.1234567891234, CONTEXT)

    def test_many_writers(self, tmp_path: Path) -> None:
        """Each through a memory of its own: every region is kept, and all are disjoint."""

        def write(i: int) -> str:
            y = point(float(i % 7), float(i // 7))
            return CovarianceMemory(tmp_path).store(y, GaussianNoise(1.0), 0.7, CONTEXT).status

        with ThreadPoolExecutor(8) as pool:
            statuses = list(pool.map(write, range(28)))
        memory = CovarianceMemory(tmp_path)
        assert len(memory) == sum(s in ("stored", "shrunk") for s in statuses)
        assert set(statuses) <= {"stored", "shrunk", "inside"}
        assert "shrunk" in statuses
        memory.verify()
        assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]

    def test_overlap_from_outside_is_detected(self, tmp_path: Path) -> None:
        """Two memories whose folders were merged by hand."""
        for name in ("a", "b"):
            CovarianceMemory(tmp_path / name).store(point(0.0), GaussianNoise(1.0), 1.0, CONTEXT)
        index = _undigested(tmp_path / "a" / "memory.json")
        index["regions"] += json.loads((tmp_path / "b" / "memory.json").read_text())["regions"]
        (tmp_path / "a" / "memory.json").write_text(json.dumps(index))
        for file in (tmp_path / "b").glob("region-*"):
            file.rename(tmp_path / "a" / file.name)
        memory = CovarianceMemory(tmp_path / "a")
        with pytest.raises(ValueError, match=r"regions .* overlap; must be disjoint"):
            memory.find(point(0.5), CONTEXT)
        with pytest.raises(ValueError, match=r"are not proven disjoint"):
            memory.verify()
        assert memory.find(point(1.5), CONTEXT) is None

    def test_a_region_that_is_gone_is_no_empty_memory(self, tmp_path: Path) -> None:
        memory = CovarianceMemory(tmp_path)
        memory.store(point(0.0), GaussianNoise(1.0), 1.0, CONTEXT)
        emptied = _undigested(tmp_path / "memory.json")
        (tmp_path / "memory.json").write_text(json.dumps({**emptied, "regions": []}))
        with pytest.raises(ValueError, match=r"are gone; their claims no longer hold"):
            memory.find(point(0.0), CONTEXT)
        (tmp_path / "memory.json").unlink()
        with pytest.raises(ValueError, match=r"memory\.json is gone; its claims no longer hold"):
            memory.find(point(0.0), CONTEXT)
        with pytest.raises(ValueError, match=r"memory\.json is gone; its claims no longer hold"):
            CovarianceMemory(tmp_path)

    @pytest.mark.parametrize(
        ("damage", "message"),
        [
            (lambda c: "{", r"memory\.json is damaged"),
            (lambda c: "[]", r"memory\.json is damaged \(must be an object, is a list\)"),
            (lambda c: {**c, "schema_version": 2}, r"must have format"),
            (lambda c: {**c, "more": 1}, r"has the fields \['format', 'more'"),
            (lambda c: {**c, "regions": {}}, r"has the fields"),
            (lambda c: {**c, "regions": [{"id": "a"}]}, r"a region is \{'id': 'a'\}, must have"),
            (lambda c: {**c, "regions": c["regions"] * 2}, r"a region is listed twice"),
            (lambda c: {**c, "regions": [{**c["regions"][0], "id": "../x"}]}, r"id '\.\./x': must be letters"),
            (lambda c: {**c, "regions": [{**c["regions"][0], "id": "ab"}]}, r"region-ab\.safetensors is not there"),
            (lambda c: {**c, "regions": [{**c["regions"][0], "rho": -1}]}, r"rho = -1, must be a finite number"),
            (lambda c: {**c, "regions": [{**c["regions"][0], "sha256": "0"}]}, r"is not the file that was written"),
            (lambda c: {**c, "regions": [{**c["regions"][0], "context": {"a": 1.5}}]}, r"context = \{'a': 1\.5\}"),
        ],
    )
    def test_damage_is_refused(self, tmp_path: Path, damage: Callable[[Any], Any], message: str) -> None:
        CovarianceMemory(tmp_path).store(point(0.0), GaussianNoise(1.0), 1.0, CONTEXT)
        index = tmp_path / "memory.json"
        damaged = damage(_undigested(index))
        index.write_text(damaged if isinstance(damaged, str) else json.dumps(damaged))
        with pytest.raises(ValueError, match=message):
            CovarianceMemory(tmp_path)

    def test_other_tensors_are_refused(self, tmp_path: Path) -> None:
        import hashlib

        CovarianceMemory(tmp_path).store(point(0.0), GaussianNoise(1.0), 1.0, CONTEXT)
        (file,) = tmp_path.glob("region-*")
        for tensors, message in (
            ({"center": point(0.0)}, r"holds \['center'\], must hold center and sigma"),
            ({"center": point(math.nan), "sigma": point(1.0)}, r"center holds NaN or infinity"),
            ({"center": point(0.0), "sigma": point(-1.0)}, r"sigma holds -1\.0"),
            ({"center": point(0.0), "sigma": point(1.0, 2.0)}, r"sigma has shape \(2,\)"),
        ):
            save_file(tensors, file)
            content = _undigested(tmp_path / "memory.json")
            content["regions"][0]["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
            (tmp_path / "memory.json").write_text(json.dumps(content))
            with pytest.raises(ValueError, match=message):
                CovarianceMemory(tmp_path)

    def test_an_index_that_changed_is_refused(self, tmp_path: Path) -> None:
        """A radius with another digit was taken for the region's own."""
        CovarianceMemory(tmp_path).store(point(0.0), GaussianNoise(1.0), 1.0, CONTEXT)
        index = tmp_path / "memory.json"
        whole = index.read_text()
        index.write_text(whole.replace('"rho": 1.0', '"rho": 9.0'))
        assert index.read_text() != whole
        with pytest.raises(ValueError, match="is not what was written: its SHA-256 differs"):
            CovarianceMemory(tmp_path)

    def test_bad_calls(self, tmp_path: Path) -> None:
        memory, noise = CovarianceMemory(tmp_path), GaussianNoise(1.0)
        (tmp_path / "file").write_text("")
        for call, error, message in (
            (lambda: CovarianceMemory(tmp_path / "file"), ValueError, r"must be a folder, is a file"),
            (lambda: memory.store(point(0.0), noise, 0.0, CONTEXT), ValueError, r"rho = 0\.0: must be"),
            (lambda: memory.store(point(math.nan), noise, 1.0, CONTEXT), ValueError, r"y holds NaN"),
            (lambda: memory.store(point(0.0), 1.0, 1.0, CONTEXT), TypeError, r"noise is a float: must be"),
            (lambda: memory.store(point(0.0), noise, 1.0, {"a": None}), ValueError, r"context = \{'a': None\}"),
            (lambda: memory.find(point(math.inf), CONTEXT), ValueError, r"y holds NaN or infinity"),
            (
                lambda: memory.store(point(0.0), GaussianNoise(point(1.0, 1.0)), 1.0, CONTEXT),
                ValueError,
                r"sigma has shape \(2,\)",
            ),
        ):
            with pytest.raises(error, match=message):
                call()  # type: ignore[operator]


class TestAdaptiveSmoother:
    """The smoother under the policy "memory"."""

    def build(self, encoder: PromptEncoder, memory: Any, **options: Any) -> AdaptiveMedianSmoother:
        return AdaptiveMedianSmoother.from_encoder(encoder, [CIRCLE], policy="memory", memory=memory, n=3, **options)

    def test_without_regions_it_is_the_frozen_policys(self, encoder: PromptEncoder, tmp_path: Path) -> None:
        adaptive = self.build(encoder, tmp_path)
        plain = AdaptiveMedianSmoother.from_encoder(encoder, [CIRCLE], n=3)
        assert torch.equal(adaptive.encode("a red coin", seed=1), plain.encode("a red coin", seed=1))
        assert not list(tmp_path.iterdir())

    def test_a_prompt_inside_a_region_has_its_noise(self, encoder: PromptEncoder, tmp_path: Path) -> None:
        adaptive = self.build(encoder, tmp_path)
        anchor, other = "a red coin", "a red circle"
        own = adaptive.relevance(other).column
        distance = adaptive.freeze(anchor).distance(other)
        issued = adaptive.remember(anchor, 1.5 * distance)
        assert issued.status == "stored"
        sigma = adaptive.relevance(anchor).column
        assert not torch.equal(own, sigma)
        for what in (adaptive.deployment(other), adaptive.problem(other), adaptive.freeze(other)):
            assert torch.equal(what.noise.sigma, sigma)
        assert adaptive.problem(other).token_noise.sigma == tuple(sigma[:, 0].tolist())
        assert torch.equal(adaptive.encode(other, seed=2), adaptive.freeze(other).encode(other, seed=2))
        again = adaptive.remember(other, 10 * distance)
        assert again.status == "inside"
        assert again.rho == pytest.approx(0.5 * distance)
        # A prompt of another length, or of another smoother's memory, is outside.
        longer = "a small red coin"
        assert torch.equal(adaptive.deployment(longer).noise.sigma, adaptive.relevance(longer).column)
        mean = self.build(encoder, CovarianceMemory(tmp_path), smoother="mean")
        assert torch.equal(mean.deployment(other).noise.sigma, own)
        fish = AdaptiveMedianSmoother.from_encoder(encoder, [FISH], policy="memory", memory=tmp_path)
        assert torch.equal(fish.deployment(other).noise.sigma, fish.relevance(other).column)
        shared = self.build(encoder, CovarianceMemory(tmp_path))
        assert torch.equal(shared.deployment(other).noise.sigma, sigma)
        assert shared.settings()["memory_sha256"] == adaptive.settings()["memory_sha256"] is not None

    def test_a_certificate_stores_its_region_first(self, encoder: PromptEncoder, tmp_path: Path) -> None:
        adaptive = self.build(encoder, tmp_path)
        certificate = adaptive.certify("a red coin", rho=0.5, rhos=[0.25, 0.75], n=400, alpha=0.01)
        (region,) = adaptive.memory.regions()  # type: ignore[union-attr]
        assert region.rho == 0.75
        assert {claim.policy for claim in certificate.claims} == {"memory"}
        assert "radius" not in {claim.quantity for claim in certificate.claims}
        assert "can be planted" in certificate.claims[0].not_covered
        with pytest.raises(ValueError, match=r"rho = 2\.0: the memory has room for 0\.75 around this prompt"):
            adaptive.certify("a red coin", rho=2.0, rhos=None, n=400)
        with pytest.raises(ValueError, match=r"rho = 3\.0: the memory has room for 0\.75 around this prompt"):
            adaptive.certify("a red coin", rho=0.5, rhos=[3.0], n=400)
        with pytest.raises(ValueError, match=r"tolerance = 1\.0: must be 0 or None under policy 'memory'"):
            adaptive.certify("a red coin", tolerance=1.0, n=400)
