"""Descriptors of known molecules, by hand; fragments, single atoms, order of atoms."""

import math

import pytest
from rdkit import Chem
from rdkit.Chem import Crippen

from datasets import InputError, descriptors


# Crippen's contributions (Wildman & Crippen 1999, table 1), summed by hand:
# methane  C1 0.1441 + 4 H1 0.1230; water O2 -0.2893 + 2 H2 -0.2677;
# benzene  6 (C18 0.1581 + H1 0.1230).
@pytest.mark.parametrize(
    "smiles, logp, large_rings",
    [("C", 0.6361, 0), ("O", -0.8247, 0), ("c1ccccc1", 1.6866, 0), ("C1CCCCCC1", 2.7307, 1)],
)
def test_penalised_logp(smiles, logp, large_rings):
    mol = Chem.MolFromSmiles(smiles)
    assert Crippen.MolLogP(mol) == pytest.approx(logp, abs=1e-4)
    sa = descriptors.sa_scorer().calculateScore(mol)
    assert descriptors.penalised_logp(mol) == pytest.approx(logp - sa - large_rings, abs=1e-4)


def test_penalised_logp_counts_each_large_ring():
    # Two rings of seven atoms that share a bond, against the same with rings of six.
    mol = Chem.MolFromSmiles("C1CCCC2CCCCCC2C1")
    sizes = sorted(len(ring) for ring in Chem.GetSSSR(mol))
    assert sizes == [7, 7]
    rest = Crippen.MolLogP(mol) - descriptors.sa_scorer().calculateScore(mol)
    assert descriptors.penalised_logp(mol) == pytest.approx(rest - 2)


# Summed by hand. Balaban J = bonds / (rings + 1) * sum over bonds of 1 / sqrt(product of the sums
# of distances of its two atoms), with distances 1 / bond order.
# n-butane: distances 1, 1, 1, 2, 2, 3; sums 6, 4, 4, 6.
# Isobutane: three pairs at 1, three at 2; sums 3, 5, 5, 5.
# Benzene: six pairs at 1, six at 2, three at 3; sums 9 / 1.5.
# Butadiene: bonds of lengths 1/2, 1, 1/2; sums 4, 3, 3, 4.
BUTANE_J, ISOBUTANE_J = 3 * (2 / math.sqrt(6 * 4) + 1 / 4), 3 * 3 / math.sqrt(3 * 5)
KNOWN = [  # SMILES, Wiener index, diameter, Balaban J, atoms of the largest conjugated system
    ("C", 0, 0, 0.0, 0),
    ("CC", 1, 1, 1.0, 0),
    ("CCCC", 10, 3, BUTANE_J, 0),
    ("CC(C)C", 9, 2, ISOBUTANE_J, 0),
    ("c1ccccc1", 27, 3, 6 / 2 * 6 / 6, 6),
    ("C=CC=C", 10, 3, 3 * (2 / math.sqrt(4 * 3) + 1 / 3), 4),
    ("[Na+].[Cl-]", 0, 0, 0.0, 0),
    ("CC.CC", 2, 1, 1.0, 0),
    ("CCCC.[Na+]", 10, 3, BUTANE_J, 0),
    ("CC(C)C.CCCC", 19, 3, ISOBUTANE_J, 0),  # the larger J of two fragments of the same size
    ("C=CC=C.c1ccccc1", 37, 3, 3.0, 6),
]


@pytest.mark.parametrize("smiles, wiener, diameter, balaban, conjugated", KNOWN)
def test_descriptors_of_distances_and_components(smiles, wiener, diameter, balaban, conjugated):
    mol = Chem.MolFromSmiles(smiles)
    assert descriptors.wiener_index(mol) == wiener
    assert descriptors.log_wiener(mol) == pytest.approx(math.log(1 + wiener))
    assert descriptors.diameter(mol) == diameter
    assert descriptors.balaban_j(mol) == pytest.approx(balaban, abs=1e-5)
    assert descriptors.conjugated_atoms(mol) == conjugated


@pytest.mark.parametrize(
    "smiles, atoms",
    [
        ("c1ccc(-c2ccccc2)cc1", 12),  # biphenyl
        ("c1ccc(Cc2ccccc2)cc1", 6),  # the carbon between the rings ends both systems
        ("C=CC", 0),  # a double bond alone
        ("C=CC=CCC=CC=CC=C", 6),
        ("CC(=O)N", 3),  # amide
    ],
)
def test_largest_conjugated_system(smiles, atoms):
    assert descriptors.conjugated_atoms(Chem.MolFromSmiles(smiles)) == atoms


# Alkanes have no correction for kinds of atoms. With A atoms and P paths of three bonds RDKit has
# (A - 1) (A - 3)^2 / P^2 for odd A and (A - 2) (A - 3)^2 / P^2 for even A.
@pytest.mark.parametrize(
    "smiles, kappa",
    [
        ("CCCC", 2.0),
        ("CCCCC", 4 * 4 / 4),
        ("CCCCCC", 4 * 9 / 9),
        ("CCCCC.[Cl-].[Na+]", 4.0),  # of the largest fragment
        ("CC(C)C", 0.0),
        ("CO", 0.0),  # -27 from the correction for oxygen alone
        ("C", 0.0),
        ("[Na+].[Cl-]", 0.0),
    ],
)
def test_kappa3(smiles, kappa):
    assert descriptors.log_kappa3(Chem.MolFromSmiles(smiles)) == pytest.approx(math.log(1 + kappa))


# Ertl's contributions (2000): hydroxyl 20.23, carbonyl oxygen 17.07, nitrile 23.79.
@pytest.mark.parametrize("smiles, area", [("CCO", 20.23), ("CC(=O)O", 37.30), ("N#CC#N", 47.58)])
def test_tpsa(smiles, area):
    assert descriptors.tpsa(Chem.MolFromSmiles(smiles)) == pytest.approx(area)


def test_descriptors_do_not_depend_on_the_order_of_atoms():
    mol = Chem.MolFromSmiles("CC(=O)Oc1ccccc1C(=O)[O-].[Na+]")
    turned = Chem.RenumberAtoms(mol, list(range(mol.GetNumAtoms()))[::-1])
    assert descriptors.describe(turned) == pytest.approx(descriptors.describe(mol))


def test_descriptors_that_are_not_finite(monkeypatch):
    monkeypatch.setitem(descriptors.DESCRIPTORS, "tpsa", lambda mol: math.nan)
    with pytest.raises(InputError, match=r"finite descriptors of CCO, got others for tpsa; leave"):
        descriptors.describe(Chem.MolFromSmiles("CCO"))
