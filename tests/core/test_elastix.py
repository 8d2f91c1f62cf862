"""elastix' parameter files of affine kinds; SimpleITK's transforms are the oracle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from lsfm_core.errors import MissingError, SourceError
from lsfm_core.transforms import Affine, read_transforms

LPS = np.array((-1, -1, 1))
POINTS = np.random.default_rng(0).normal(size=(20, 3)) * 5
CENTRE = (1.0, 2.0, 3.0)


def write(path: Path, kind: str, parameters: Any, *lines: str, initial: str = "NoInitialTransform", how: str = "Compose") -> Path:
    path.write_text(
        f'(Transform "{kind}")\n(NumberOfParameters {len(parameters)})\n(TransformParameters {" ".join(map(repr, parameters))})\n'
        f'(InitialTransformParametersFileName "{initial}")\n(HowToCombineTransforms "{how}")\n\n// Image specific\n'
        "(FixedImageDimension 3)\n(MovingImageDimension 3)\n(Size 12 11 10)\n(Spacing 0.2 0.2 0.2)\n(Origin 0 0 0)\n"
        '(Direction 1 0 0 0 1 0 0 0 1)\n(UseDirectionCosines "true")\n\n// Specific to it\n'
        f"(CenterOfRotationPoint {' '.join(map(str, CENTRE))})\n" + "".join(f"{line}\n" for line in lines)
    )
    return path


def mapped(transform: Any) -> Any:
    """RAS points through a transform of ITK."""
    return np.array([transform.TransformPoint((point * LPS).tolist()) for point in POINTS]) * LPS


AFFINE = [1.05, 0.1, 0.0, -0.08, 0.95, 0.04, 0.02, 0.0, 1.1, 0.3, -0.2, 0.1]
EULER = [0.1, -0.2, 0.3, 1.5, 2.5, -3.5]
SIMILARITY = [0.1, -0.05, 0.2, 0.5, 1.5, -2.5, 1.2]


def itk(kind: str, parameters: Any, zyx: bool = False) -> Any:
    if kind == "TranslationTransform":
        return sitk.TranslationTransform(3, parameters)
    if kind == "AffineTransform":
        return sitk.AffineTransform(parameters[:9], parameters[9:], CENTRE)
    transform: Any = sitk.Euler3DTransform() if kind == "EulerTransform" else sitk.Similarity3DTransform()
    transform.SetCenter(CENTRE)
    if kind == "EulerTransform":
        transform.SetComputeZYX(zyx)
    transform.SetParameters(parameters)
    return transform


@pytest.mark.parametrize(
    ("kind", "parameters", "lines", "zyx"),
    [
        ("TranslationTransform", [1.0, -2.0, 3.0], (), False),
        ("AffineTransform", AFFINE, (), False),
        ("EulerTransform", EULER, ('(ComputeZYX "false")',), False),
        ("EulerTransform", EULER, ('(ComputeZYX "true")',), True),
        ("SimilarityTransform", SIMILARITY, (), False),
    ],
)
def test_each_affine_kind_is_that_of_itk(kind: str, parameters: Any, lines: tuple[str, ...], zyx: bool, tmp_path: Path) -> None:
    path = write(tmp_path / "TransformParameters.0.txt", kind, parameters, *lines)
    np.testing.assert_allclose(Affine.read(path).map_points(POINTS), mapped(itk(kind, parameters, zyx)), atol=1e-12)


@pytest.mark.parametrize(
    "initial", ["TransformParameters.0.txt", "/elsewhere/of/it/TransformParameters.0.txt", "C:\\a\\TransformParameters.0.txt"]
)
def test_what_comes_before_is_found_beside_and_applied_first(initial: str, tmp_path: Path) -> None:
    write(tmp_path / "TransformParameters.0.txt", "EulerTransform", EULER)
    path = write(tmp_path / "TransformParameters.1.txt", "AffineTransform", AFFINE, initial=initial)
    (transform,) = read_transforms(path)
    # Of ITK's composites the last applies first.
    both = sitk.CompositeTransform([itk("AffineTransform", AFFINE), itk("EulerTransform", EULER)])
    np.testing.assert_allclose(transform.map_points(POINTS), mapped(both), atol=1e-12)


def test_transforms_can_be_added(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "EulerTransform", EULER)
    path = write(tmp_path / "b.txt", "AffineTransform", AFFINE, initial="a.txt", how="Add")
    sum_ = mapped(itk("AffineTransform", AFFINE)) + mapped(itk("EulerTransform", EULER)) - POINTS
    np.testing.assert_allclose(Affine.read(path).map_points(POINTS), sum_, atol=1e-12)


def test_what_is_no_affine_is_refused_by_its_name(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "BSplineTransform", [0.0] * 12)
    with pytest.raises(SourceError, match=r"BSplineTransform.*displacement field"):
        read_transforms(path)
    second = write(tmp_path / "b.txt", "AffineTransform", AFFINE, initial="a.txt")
    with pytest.raises(SourceError, match="BSplineTransform"):
        read_transforms(second)
    with pytest.raises(MissingError, match=r"missing\.txt"):
        read_transforms(write(tmp_path / "c.txt", "AffineTransform", AFFINE, initial="missing.txt"))
    with pytest.raises(SourceError, match="circle"):
        read_transforms(write(tmp_path / "d.txt", "AffineTransform", AFFINE, initial="d.txt"))
    write(tmp_path / "one.txt", "AffineTransform", AFFINE, initial="two.txt")
    with pytest.raises(SourceError, match=r"one\.txt: .*they go in a circle"):
        read_transforms(write(tmp_path / "two.txt", "AffineTransform", AFFINE, initial="one.txt"))
    with pytest.raises(SourceError, match="expected 12"):
        read_transforms(write(tmp_path / "e.txt", "AffineTransform", AFFINE[:-1]))
